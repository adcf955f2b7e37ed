"""Any folder or archive of real images as a reference; what an extractor made of it is kept, keyed by content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffusionbench.axes import Sample
from diffusionbench.errors import DataError
from diffusionbench.extractors import cache_folder
from diffusionbench.references.statistics import Statistics
from diffusionbench.schema import write_atomic
from diffusionbench.source import ArraySource, archive_keys, open_source
from diffusionbench.store import Stream

if TYPE_CHECKING:
    from diffusionbench.extractors import Extractor
    from diffusionbench.source import Source


class Images:
    """Real images by path: moments and features of all of them, and the anchor of class means where they are labelled.

    No image is held out of a stranger's folder, so there is no anchor of held-out images.

    Raises:
        DataError: if there are no images.
    """

    offers = frozenset({"moments", "features"})

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name or str(path)
        self._source = open_source(path)
        self._labels = list(self._source.labels)
        known = [label for label in self._labels if label is not None]
        self.num_classes: int | None = max(known) + 1 if len(known) == len(self._labels) else None
        self.image_size = self._source.image_size
        # An archive may carry the moments of a larger set than its images (the ADM reference batch does).
        carries = path.suffix == ".npz" and {"mu", "sigma"} <= set(archive_keys(path))
        self._statistics = Statistics(path) if carries else None

    @property
    def digest(self) -> str:
        """SHA-256 over the files."""
        return self._source.digest

    def labels(self, count: int) -> list[int | None]:
        """The images' own labels in stored order, repeated."""
        return [self._labels[index % len(self._labels)] for index in range(count)]

    def anchors(self, count: int) -> dict[str, Source]:
        """`count` class means, in the order of `labels`; nothing without labels."""
        if self.num_classes is None:
            return {}
        means = self._class_means
        labels = self.labels(count)
        return {"class_means": ArraySource(np.stack([means[label] for label in labels]), labels, "class means")}

    @cached_property
    def _class_means(self) -> dict[int | None, np.ndarray]:
        sums: dict[int | None, np.ndarray] = {}
        counts: dict[int | None, int] = {}
        for samples, batch in self._batches():
            for sample, image in zip(samples, batch, strict=True):
                sums[sample.label] = sums.get(sample.label, np.zeros(image.shape)) + image
                counts[sample.label] = counts.get(sample.label, 0) + 1
        return {label: np.round(total / counts[label]).astype(np.uint8) for label, total in sums.items()}

    def _batches(self) -> Iterator[tuple[list[Sample], np.ndarray]]:
        samples = [Sample(id=index, label=label) for index, label in enumerate(self._labels)]
        stream = Stream(self._source, samples)
        yield from stream.batches(len(samples))
        faults = list(stream.unreadable(len(samples)).values())
        if faults:
            # A reference with a hole would be another reference under the same name.
            raise DataError(f"reference {self.path}: {len(faults)} images cannot be read; the first: {faults[0]}")

    def features(self, extractor: Extractor) -> np.ndarray:
        """Features float32 [n, d]; computed once per content and extractor, then read from the cache folder.

        Raises:
            DataError: if an image cannot be read; it is named.
        """
        key = hashlib.sha256(f"{self.digest}{extractor.digest}".encode()).hexdigest()
        file = cache_folder() / "features" / f"{key}.npy"
        if file.exists():
            return np.load(file, allow_pickle=False)
        made = np.concatenate([extractor(batch)["features"] for _, batch in self._batches()])
        write_atomic(file, lambda stream: np.save(stream, made))
        return made

    def moments(self, extractor: Extractor) -> tuple[np.ndarray, np.ndarray]:
        """The moments stored beside the images where there are any, else mean and covariance of `features`.

        Raises:
            RequestError: if stored moments have another width than the extractor's features.
        """
        if self._statistics is not None:
            return self._statistics.moments(extractor)
        from diffusionbench.metrics import frechet

        return frechet.moments(self.features(extractor))
