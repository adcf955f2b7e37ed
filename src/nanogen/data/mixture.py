"""Data sets made of others: several mixed by weight, and classes put into words."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from diffusionbench.errors import ConfigError, DataError
from nanogen.data import Dataset, Item
from nanogen.data.images import StoredImages
from nanogen.data.memory import InMemory
from nanogen.data.plan import Part, parts_of

# Where a template has the name of the class.
PLACE = "{class}"


class Mixture:
    """Several data sets, one after the other; the order draws from them in proportion to their weights.

    Args:
        datasets: at least one; all captioned, or all with the same classes.
        weights: one above 0 for each; only their ratios matter.

    Raises:
        DataError: if neither captions nor classes are common to all.
    """

    def __init__(self, datasets: Sequence[Dataset], weights: Sequence[float]) -> None:
        self.datasets = tuple(datasets)
        self.parts = tuple(
            replace(part, weight=weight * part.weight)
            for dataset, weight in zip(datasets, weights, strict=True)
            for part in _single(dataset)
        )
        self._starts = np.cumsum([0, *(len(dataset) for dataset in datasets)])
        first = datasets[0]
        same = all((one.classes, one.num_classes) == (first.classes, first.num_classes) for one in datasets)
        self.classes = first.classes if same else None
        self.num_classes = first.num_classes if same else None
        self.captioned = all(dataset.captioned for dataset in datasets)
        if not self.captioned and self.num_classes is None:
            raise DataError(
                "the folders to mix have neither captions nor the same classes in common. "
                "Mix captioned data, or folders with equal classes."
            )
        self.digest = hashlib.sha256("\n".join(dataset.digest for dataset in datasets).encode()).hexdigest()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Item:
        dataset, inside = self._place(index)
        item = dataset[inside]
        return replace(
            item,
            label=None if self.num_classes is None else item.label,
            caption=item.caption if self.captioned else None,
        )

    def caption(self, index: int) -> str | None:
        dataset, inside = self._place(index)
        return dataset.caption(inside) if self.captioned else None

    def _place(self, index: int) -> tuple[Dataset, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.datasets[number], index - int(self._starts[number])


def _single(dataset: Dataset) -> tuple[Part, ...]:
    parts = parts_of(dataset, len(dataset))
    if len(parts) != 1:
        raise ConfigError("a mixture cannot be mixed again. List its folders in one data.path.")
    return parts


@dataclass(frozen=True)
class ClassTexts:
    """Captions that depend on the class alone.

    Attributes:
        labels: int64 [n].
        captions: for each class its caption.
    """

    labels: np.ndarray
    captions: tuple[str, ...]

    def text(self, index: int) -> str:
        return self.captions[self.labels[index]]


def with_template(dataset: Dataset, template: str, name: str) -> Dataset:
    """Captions such as "a photo of a {class}" for a data set of classes; images and labels stay.

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
    if isinstance(dataset, InMemory) and dataset.labels is not None:
        return replace(dataset, captions=[captions[label] for label in dataset.labels], digest=digest)
    if isinstance(dataset, StoredImages) and dataset.labels is not None:
        return replace(dataset, texts=ClassTexts(dataset.labels, captions), digest=digest)
    raise ConfigError(f"data set '{name}' takes no data.template. Leave it out, or let the data set name its captions.")
