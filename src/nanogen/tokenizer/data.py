"""The images of a first stage: several data sets mixed by shares, and images of each that are only measured."""

from __future__ import annotations

from typing import Any

from diffusionbench.errors import ConfigError
from diffusionbench.schema import digest
from nanogen import parallel
from nanogen.data import Component, Dataset, Example, Wrapped
from nanogen.data.memory import CachedLatents, cache_latents
from nanogen.data.mixture import PLACE, Mixture, with_template
from nanogen.data.opening import open_dataset
from nanogen.data.order import in_order
from nanogen.datasets import DATASETS
from nanogen.log import say
from nanogen.tokenizer.settings import SourceConfig, TokenizerConfig

Source = Dataset | CachedLatents


class Span(Wrapped):
    """Some of the examples of a data set, one after the other."""

    def __init__(self, dataset: Dataset, within: range) -> None:
        super().__init__(dataset)
        self.within, self.digest = within, digest([dataset.digest, within.start, within.stop])

    def __len__(self) -> int:
        return len(self.within)

    @property
    def components(self) -> tuple[Component, ...]:
        return (Component(len(self)),)

    def __getitem__(self, index: int) -> Example:
        return self.dataset[self.within[index]]

    def caption(self, index: int) -> str | None:
        return self.dataset.caption(self.within[index])


def open_sources(config: TokenizerConfig) -> tuple[Dataset, dict[str, Dataset]]:
    """Return the training images of a config, mixed, and the held-out ones of each source.

    Raises:
        DataError: if data is missing or unreadable.
        ConfigError: if as many images are to be held out as there are.
    """
    sources, size = config.data.sources, config.data.image_size
    pairs = {name: _open_source(name, source, size) for name, source in sources.items()}
    training = [
        with_template(data, PLACE, name) if len(pairs) > 1 and not data.captioned and data.classes else data
        for name, (data, _) in pairs.items()
    ]
    mixed = Mixture(training, [source.share for source in sources.values()]) if len(pairs) > 1 else training[0]
    return mixed, {name: held_out for name, (_, held_out) in pairs.items()}


def _open_source(name: str, source: SourceConfig, size: int) -> tuple[Dataset, Dataset]:
    whole, held_out = open_dataset(name, source.path, image_size=size), source.held_out
    if isinstance(held_out, str):
        where: dict[str, Any] = {"path": held_out} if DATASETS[name].takes_path else {"path": None, "split": held_out}
        return whole, open_dataset(name, image_size=size, **where)
    cut = len(whole) - held_out
    if cut < 1:
        raise ConfigError(f"data.sources.{name}.held_out is {held_out} of {len(whole)} images. Leave some.")
    return Span(whole, range(cut)), Span(whole, range(cut, len(whole)))


def kept(data: Dataset, config: TokenizerConfig) -> Source:
    """Return the data, or its images in memory where they fit into data.cache_mb."""
    if len(data) * 3 * config.data.image_size**2 > config.data.cache_mb * 2**20:
        return data
    if parallel.is_main():
        say(f"decoding {len(data):,} images once (data.cache_mb)")
    return cache_latents(data, in_order(data, 256, config.data.workers), lambda batch: batch.image, "image")
