"""SimpleEval: a text-to-image metric built against hacking (docs/simpleeval.md).

Prompts come in blocks of four twins that differ in one or two words; credit is given only where the image changes in
the requested way. Two worlds share all code but the pictures: `open` (natural prompts, two frozen dual encoders) and
`shapes` (rendered scenes, two hand-written readers, no weights).
"""

from typing import Final

#: Any change to a prompt, question, view or weight is a new version and a new column.
VERSION: Final = "simpleeval-v1"
