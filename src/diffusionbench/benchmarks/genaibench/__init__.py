"""x"""

PROMPTS = ()
METRICS = ()
JUDGES = ()
