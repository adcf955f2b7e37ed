"""An axis, a feature extractor and a metric for DiffusionBench, added from outside its tree."""

COLOURS = ("red", "green", "blue")
