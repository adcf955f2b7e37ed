"""Opens references by name or path: folders and archives of real images, and files of means and covariances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from diffusionbench.archives import Archive
from diffusionbench.errors import DataError, RequestError
from diffusionbench.imagesets import ImageStream
from diffusionbench.judges.float32 import PRECISION, features_of
from diffusionbench.judges.judge import Judge
from diffusionbench.moments import Moments, load_moments
from diffusionbench.references import REFERENCES
from diffusionbench.references.reference import Reference
from diffusionbench.registry import nearest
from diffusionbench.sample import Sample, plain_item
from diffusionbench.schema import digest, file_digest
from diffusionbench.shown import printable
from diffusionbench.source import STATISTICS_KEYS, ArchiveSource, ImageSource, archive_keys, open_source
from diffusionbench.writing import cache_folder, write_atomic


class ClassMeans:
    """Gives the mean image of each label asked for; as many as there are labels, none of them held in memory twice."""

    preferred_batch = 64
    image_format = "raw"
    description = "class means of the reference"

    def __init__(self, means: Mapping[int | None, np.ndarray], labels: Sequence[int | None]) -> None:
        self._means = means
        self.labels: Sequence[int | None] = labels
        self.digest = digest([[label, mean.tolist()] for label, mean in means.items()] + [list(labels)])
        self.image_size: tuple[int, int] | None = next(iter(means.values())).shape[:2]

    def images(self, samples: Sequence[Sample]) -> np.ndarray:
        """Return uint8 [B, H, W, 3]."""
        return np.stack([self._means[self.labels[sample.id]] for sample in samples])


class ImageReference(Reference):
    """Real images by path: moments and features of all of them, and the anchor of class means where they are labelled.

    No image is held out of a user's folder, so there is no anchor of held-out images. An archive that also holds
    `mu` and `sigma`, as published reference batches do, gives those as the moments of a judge of their width.

    Raises:
        DataError: if there are no images.
    """

    offers = frozenset({"moments", "features"})

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = printable(path.name or str(path))
        self._source = open_source(path)
        self._labels = list(self._source.labels)
        known = [label for label in self._labels if label is not None]
        if len(known) == len(self._labels):
            self.num_classes = max(known) + 1
            # The classes of an archive are called by their numbers.
            self.classes = self._source.classes or tuple(map(str, range(self.num_classes)))
        self.notes = self._source.notes
        self.image_size = self._source.image_size

    @property
    def digest(self) -> str:
        """SHA-256 over the files."""
        return self._source.digest

    def labels(self, count: int) -> list[int | None]:
        """Return the images' own labels in stored order, repeated."""
        return [self._labels[index % len(self._labels)] for index in range(count)]

    def anchors(self, count: int) -> dict[str, ImageSource]:
        """Return `count` class means, in the order of `labels`; nothing without labels."""
        if self.num_classes is None:
            return {}
        return {"class_means": ClassMeans(self._class_means, self.labels(count))}

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
        samples = [Sample(index, plain_item(label)) for index, label in enumerate(self._labels)]
        stream = ImageStream(self._source, samples)
        yield from stream.batches(len(samples))
        faults = list(stream.unreadable(len(samples)).values())
        if faults:
            # All reference images must be readable; skipping one would change the statistics.
            raise DataError(f"reference {self.path}: {len(faults)} images cannot be read; the first: {faults[0]}.")

    def features(self, judge: Judge) -> np.ndarray:
        """Return features float32 [n, d]; computed once per content and judge, then read from the cache folder.

        Raises:
            DataError: if an image cannot be read; it is named.
        """
        made = self._cached("features", judge, lambda: {"features": np.concatenate(list(self._features(judge)))})
        return made["features"]

    def moments(self, judge: Judge) -> tuple[np.ndarray, np.ndarray]:
        """Return mean float64 [d] and covariance float64 [d, d], in constant memory; cached like `features`.

        Raises:
            DataError: if an image cannot be read; it is named.
        """
        if isinstance(self._source, ArchiveSource) and {"mu", "sigma"} <= set(archive_keys(self.path)):
            mean, cov = load_moments(self.path)
            if len(mean) == judge.spec.dim:
                return mean, cov

        def make() -> dict[str, np.ndarray]:
            moments = Moments()
            for features in self._features(judge):
                moments.update(features)
            mean, cov = moments.compute()
            return {"mu": mean, "sigma": cov}

        made = self._cached("moments", judge, make)
        return made["mu"], made["sigma"]

    def _features(self, judge: Judge) -> Iterator[np.ndarray]:
        for _, batch in self._batches():
            yield features_of(judge, batch)

    def _cached(self, what: str, judge: Judge, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Return arrays from the cache folder; made and kept there if they are not, or no longer readable."""
        file = cache_folder() / "features" / f"{digest([self.digest, judge.digest, PRECISION])}-{what}.npz"
        try:
            with Archive(file) as archive:
                return {key: archive.read(key) for key in archive.keys}
        except DataError:
            made = make()
        try:
            write_atomic(file, lambda stream: np.savez(stream, allow_pickle=False, **made))
        except OSError as error:
            raise DataError(
                f"features of {self.path} cannot be kept in {file.parent}: {error.strerror or error}. Make room, or "
                "set DIFFUSIONBENCH_CACHE to a folder that can be written."
            ) from None
        return made


class StatisticsReference(Reference):
    """Moments from an .npz; FID against other statistics is another number, so the record names file and hash.

    Raises:
        DataError: if the file holds no moments.
    """

    offers = frozenset({"moments"})

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = printable(path.name)
        self._moments = load_moments(path)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return file_digest(self.path)

    def moments(self, judge: Judge) -> tuple[np.ndarray, np.ndarray]:
        """Return the file's moments.

        Raises:
            RequestError: if their width is not the judge's.
        """
        if len(self._moments[0]) != judge.spec.dim:
            raise RequestError(
                f"reference statistics {self.path} have width {len(self._moments[0])}, and judge '{judge.name}' gives "
                f"{judge.spec.dim}. Give statistics of the same judge."
            )
        return self._moments


@cache
def _named(name: str) -> Reference:
    found: Reference = REFERENCES.load(name)()
    return found


def resolve(reference: str) -> Reference:
    """Return a reference by its name in `REFERENCES` (one object per process) or by path.

    A path is a folder of images, an .npz of images (`arr_0`, perhaps with `mu` and `sigma`), or an .npz of
    statistics alone.

    Raises:
        RequestError: if it is neither a name nor a path.
        DataError: if the file or folder holds no reference.
    """
    if reference in REFERENCES:
        return _named(reference)
    path = Path(reference)
    if not path.exists():
        raise RequestError(
            f"unknown reference '{reference}': it is no name and no file or folder. "
            f"{nearest(reference, list(REFERENCES))}"
        )
    if path.is_file() and path.suffix.lower() == ".npz":
        keys = archive_keys(path)
        if "arr_0" not in keys and set(keys) & set(STATISTICS_KEYS):
            return StatisticsReference(path)
    return ImageReference(path)
