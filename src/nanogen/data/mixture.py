"""Data sets made of others: several mixed by weight, and classes put into words."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from diffusionbench.errors import ConfigError, DataError
from nanogen.data import Component, Dataset, Example, Wrapped, locate
from nanogen.data.memory import ArrayDataset

# Where a template has the name of the class.
PLACE = "{class}"


class Mixture(Dataset):
    """Several data sets, one after the other; the order draws from them in proportion to their weights.

    Args:
        datasets: at least one; all captioned, or all with the same classes.
        weights: one above 0 for each; only their ratios matter.

    Raises:
        DataError: if neither captions nor classes are common to all.
    """

    def __init__(self, datasets: Sequence[Dataset], weights: Sequence[float]) -> None:
        self.datasets = tuple(datasets)
        self._components = tuple(
            replace(component, weight=weight * component.weight)
            for dataset, weight in zip(datasets, weights, strict=True)
            for component in dataset.components
        )
        if len(self._components) != len(datasets):
            raise ConfigError("a mixture cannot be mixed again. List its folders in one data.path.")
        self._starts = np.cumsum([0, *map(len, datasets)])
        first = datasets[0]
        if all((one.classes, one.num_classes) == (first.classes, first.num_classes) for one in datasets):
            self.classes, self.num_classes = first.classes, first.num_classes
        self.captioned = all(dataset.captioned for dataset in datasets)
        if not self.captioned and self.num_classes is None:
            raise DataError(
                "the folders to mix have neither captions nor the same classes in common. "
                "Mix captioned data, or folders with equal classes."
            )
        self.digest = hashlib.sha256("\n".join(dataset.digest for dataset in datasets).encode()).hexdigest()

    @property
    def components(self) -> tuple[Component, ...]:
        return self._components

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Example:
        dataset, inside = self._place(index)
        example = dataset[inside]
        return replace(
            example,
            label=None if self.num_classes is None else example.label,
            caption=example.caption if self.captioned else None,
        )

    def caption(self, index: int) -> str | None:
        dataset, inside = self._place(index)
        return dataset.caption(inside) if self.captioned else None

    def _place(self, index: int) -> tuple[Dataset, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number, inside = locate(self._starts, index)
        return self.datasets[number], inside


class ClassCaptions(Wrapped):
    """A data set of classes with one caption for each class."""

    def __init__(self, dataset: Dataset, captions: Sequence[str], digest: str) -> None:
        super().__init__(dataset)
        self.captioned, self.digest, self._captions = True, digest, captions

    def __getitem__(self, index: int) -> Example:
        example = self.dataset[index]
        return replace(example, caption=None if example.label is None else self._captions[example.label])

    def caption(self, index: int) -> str | None:
        label = self.dataset.label(index)
        return None if label is None else self._captions[label]


def with_template(dataset: Dataset, template: str, name: str) -> Dataset:
    """Return a data set of classes with captions such as "a photo of a {class}"; images and labels stay.

    Args:
        dataset: one with names of classes.
        template: a text with `{class}` in it.
        name: of the data set, for messages.

    Raises:
        ConfigError: if the template has no `{class}`, or the data has captions already or no names of classes.
    """
    if PLACE not in template:
        raise ConfigError(f"data.template is {template!r}, without {PLACE}. Example: 'a photo of a {PLACE}'.")
    if dataset.captioned:
        raise ConfigError(f"data set '{name}' has captions already. Leave data.template out.")
    if dataset.classes is None:
        raise ConfigError(
            f"data.template needs names of classes, and data set '{name}' has none. "
            "Use data that names them, such as a folder per class."
        )
    captions = tuple(template.replace(PLACE, one) for one in dataset.classes)
    digest = hashlib.sha256("\n".join([dataset.digest, *captions]).encode()).hexdigest()
    if isinstance(dataset, ArrayDataset) and dataset.labels is not None:
        return replace(dataset, captions=[captions[label] for label in dataset.labels], digest=digest)
    return ClassCaptions(dataset, captions, digest)
