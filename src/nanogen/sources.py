"""The row by which DiffusionBench opens the networks of NanoGen, registered as an entry point; without torch."""

from diffusionbench.specs import SourceSpec

NANOGEN = SourceSpec(
    name="nanogen", title="run folder or weights file, and overrides of sampling", load="nanogen.api:open_source"
)
