"""An axis, a prompt set, a feature extractor and a metric for DiffusionBench, added from outside its tree."""

COLOURS = ("red", "green", "blue")
TEXTS = tuple(f"a plain {colour} image" for colour in COLOURS)
