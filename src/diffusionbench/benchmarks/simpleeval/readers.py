"""The two hand-written readers of the `shapes` world, which share nothing but the list of colours and shapes."""

from diffusionbench.benchmarks.simpleeval.reader_components import read_components
from diffusionbench.benchmarks.simpleeval.reader_filters import read_filters

__all__ = ["read_components", "read_filters"]
