"""Opens references by name or path: folders and archives of real images, and files of means and covariances."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from diffusionbench.archives import Archive
from diffusionbench.errors import DataError, RequestError
from diffusionbench.judges import JUDGES, JudgeSpec
from diffusionbench.judges.float32 import PRECISION
from diffusionbench.judges.judge import Judge
from diffusionbench.moments import Moments, has_moments
from diffusionbench.references import REFERENCES, Role, split_name
from diffusionbench.references.half import HalfReference
from diffusionbench.references.real import RealImages, block_ranges, feature_block, real_images
from diffusionbench.references.reference import Reference
from diffusionbench.references.statistics import StatisticsReference, agreed_role
from diffusionbench.registry import nearest
from diffusionbench.sample import Item, Sample
from diffusionbench.schema import digest
from diffusionbench.shown import few, printable
from diffusionbench.source import STATISTICS_KEYS, ArchiveSource, ImageSource, archive_keys, image_keys, open_source
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


def mixed(labels: Sequence[int | None]) -> list[int | None]:
    """Return labels that stand class after class in an order whose every beginning holds each class's share.

    Other labels stay as they are.
    """
    sizes = Counter(labels)
    if len(list(groupby(labels))) > len(sizes):
        return list(labels)
    ranked = [((rank + 0.5) / size, label) for label, size in sizes.items() for rank in range(size)]
    return [label for _, label in sorted(ranked, key=lambda pair: pair[0])]


class ImageReference(Reference):
    """Real images by path: moments and features of all of them, and the anchor of class means where they are labelled.

    No image is held out of a user's folder, so there is no anchor of held-out images. An archive that also holds
    `mu` and `sigma`, as published reference batches do, gives those as the moments of the judge whose they are, where
    something says so; its images serve every judge.

    Args:
        path: of a folder or an archive.
        asserted: judge whose statistics the user says `mu` and `sigma` are.
        role: which split the user says the images are.
        source: the images, where the path alone does not lead to them.

    Raises:
        DataError: if there are no images, or statistics beside them cannot be read.
    """

    def __init__(
        self,
        path: Path,
        asserted: str | None = None,
        role: Role | None = None,
        source: RealImages | None = None,
    ) -> None:
        self.path = path
        self.offers = frozenset({"moments", "features", "pairs"})
        self.name = printable(path.name or str(path)) if source is None else printable(source.description)
        self._source: RealImages = open_source(path) if source is None else source
        self._labels = list(self._source.labels)
        known = [label for label in self._labels if label is not None]
        if len(known) == len(self._labels):
            self.num_classes = max(known) + 1
            # The classes of an archive are called by their numbers.
            self.classes = self._source.classes or tuple(map(str, range(self.num_classes)))
        self.count = len(self._labels)
        self.notes = self._source.notes
        self.image_size = self._source.image_size
        self._statistics: StatisticsReference | None = None
        if isinstance(self._source, ArchiveSource) and has_moments(archive_keys(path)):
            self._add_statistics(asserted, role)
        self.role = agreed_role(path, self._statistics.role if self._statistics else None, role)

    def _add_statistics(self, asserted: str | None, role: Role | None) -> None:
        found = StatisticsReference(self.path, asserted, role)
        if found.extractor is not None:
            self._statistics = found
            return
        self.notes += (
            f"{self.path}: its mu and sigma are not used, as nothing says which extractor made them; moments are made "
            f"from its {self.count:,} images. If they are those of judge NAME, say so with --reference-extractor NAME.",
        )

    @property
    def digest(self) -> str:
        """SHA-256 over the files."""
        return self._source.digest

    def labels(self, count: int) -> list[int | None]:
        """Return the images' own labels in stored order, repeated; class after class they are mixed (`mixed`)."""
        return [self._order[index % len(self._order)] for index in range(count)]

    @cached_property
    def _order(self) -> list[int | None]:
        return mixed(self._labels)

    def anchors(self, count: int) -> dict[str, ImageSource]:
        """Return `count` class means, in the order of `labels`; nothing without labels."""
        if self.num_classes is None:
            return {}
        return {"class_means": ClassMeans(self._class_means, self.labels(count))}

    @cached_property
    def _class_means(self) -> dict[int | None, np.ndarray]:
        sums: dict[int | None, np.ndarray] = {}
        counts: dict[int | None, int] = {}
        for samples, batch in real_images(self._source):
            for sample, image in zip(samples, batch, strict=True):
                sums[sample.label] = sums.get(sample.label, np.zeros(image.shape)) + image
                counts[sample.label] = counts.get(sample.label, 0) + 1
        return {label: np.round(total / counts[label]).astype(np.uint8) for label, total in sums.items()}

    @cached_property
    def _places(self) -> dict[str, int]:
        return {key: place for place, key in enumerate(self.keys)}

    @cached_property
    def keys(self) -> list[str]:
        """What tells the images apart, in order; see `source.image_keys`."""
        return image_keys(self._source) or []

    def pixels(self, place: int) -> np.ndarray:
        """Return an image uint8 [H, W, 3] by its number.

        Raises:
            DataError: if it cannot be read.
        """
        return self._source.images([Sample(place)])[0]

    def partnered(self, samples: Sequence[Sample]) -> list[Sample]:
        """See `Reference.partnered`."""
        if alone := [sample.item.key for sample in samples if sample.item.key not in self._places]:
            raise RequestError(
                f"{len(alone):,} of {len(samples):,} images have no original of their name in reference {self.name}: "
                f"{few(alone)}. Add the originals, whatever their suffix, or take these images out."
            )
        times = Counter(self.keys)
        if twice := [sample.item.key for sample in samples if times[sample.item.key] > 1]:
            raise RequestError(
                f"{len(twice):,} of {len(samples):,} images have several originals of their name in reference "
                f"{self.name}: {few(twice)}. Keep one of each; numbers with and without leading zeros are one name."
            )
        return [replace(sample, item=self._with_partner(sample.item)) for sample in samples]

    def _with_partner(self, item: Item) -> Item:
        place = self._places[item.key]

        return replace(
            item,
            target=f"{self.digest}/{place}",
            detail={**item.detail, "partner": partial(self.pixels, place)},
        )

    def made_by(self, judge: str) -> str | None:
        """See `Reference.made_by`."""
        return None if self._statistics is None else self._statistics.made_by(judge)

    def _statistics_of(self, judge: JudgeSpec) -> StatisticsReference | None:
        return None if self.made_by(judge.name) is None else self._statistics

    def check(self, judge: JudgeSpec) -> None:
        """See `Reference.check`."""
        if found := self._statistics_of(judge):
            found.check(judge)

    def check_loaded(self, judge: Judge) -> None:
        """See `Reference.check_loaded`."""
        if found := self._statistics_of(judge.spec):
            found.check_loaded(judge)

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
            RequestError: if the archive's statistics are those of this judge's name and not this judge's.
        """
        if found := self._statistics_of(judge.spec):
            return found.moments(judge)

        def make() -> dict[str, np.ndarray]:
            moments = Moments()
            for features in self._features(judge):
                moments.update(features)
            mean, cov = moments.compute()
            return {"mu": mean, "sigma": cov}

        made = self._cached("moments", judge, make)
        return made["mu"], made["sigma"]

    def _features(self, judge: Judge) -> Iterator[np.ndarray]:
        """Give features block by block, from the cache folder where all of them are kept there."""
        kept = self._kept("features", judge)
        if kept is not None:
            yield kept["features"]
            return
        for rows in block_ranges(len(self._labels)):
            yield feature_block(self._source, judge, rows)

    def _place(self, what: str, judge: Judge) -> Path:
        return cache_folder() / "features" / f"{digest([self.digest, judge.digest, PRECISION])}-{what}.npz"

    def _kept(self, what: str, judge: Judge) -> dict[str, np.ndarray] | None:
        """Return arrays from the cache folder, or None where they are not there or no longer readable."""
        try:
            with Archive(self._place(what, judge)) as archive:
                # Our own file may be as large as its features are.
                return {key: archive.read(key, most=sys.maxsize) for key in archive.keys}
        except DataError:
            return None

    def _cached(self, what: str, judge: Judge, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return arrays from the cache folder; made and kept there if they are not, or no longer readable."""
        kept = self._kept(what, judge)
        if kept is not None:
            return kept
        file, made = self._place(what, judge), make()
        try:
            write_atomic(file, lambda stream: np.savez(stream, **made))
        except OSError as error:
            raise DataError(
                f"features of {self.path} cannot be kept in {file.parent}: {error.strerror or error}. Make room, or "
                "set DIFFUSIONBENCH_CACHE to a folder that can be written."
            ) from None
        return made


@cache
def _named(name: str) -> Reference:
    found: Reference = REFERENCES.load(name)()
    return found


def resolve(reference: str, asserted: str | None = None, role: Role | None = None) -> Reference:
    """Return a reference by its name in `REFERENCES` (one object per process) or by path.

    A path is a folder of images, an .npz of images (`arr_0`, perhaps with `mu` and `sigma`), or an .npz of
    statistics alone. `NAME:even` and `NAME:odd` are its images of even and of odd index.

    Args:
        asserted: judge whose statistics the user says a file holds that nothing else tells whose they are.
        role: which split the user says the images are.

    Raises:
        RequestError: if it is neither a name nor a path, or the role is known to be another one.
        DataError: if the file or folder holds no reference.
    """
    name, half = split_name(reference)
    if half is not None:
        return HalfReference(resolve(name, asserted, role), half)
    if reference in REFERENCES:
        named = _named(reference)
        agreed_role(f"'{reference}'", named.role, role)
        return named
    path = Path(reference)
    if not path.exists():
        judge, equals, _ = reference.partition("=")
        hint = f"No judge is called '{judge}'. {nearest(judge, list(JUDGES))}" if equals else ""
        raise RequestError(
            f"unknown reference '{reference}': it is no name and no file or folder. "
            f"{hint or nearest(reference, list(REFERENCES))}"
        )
    if path.is_file() and path.suffix.lower() == ".npz":
        keys = archive_keys(path)
        if "arr_0" not in keys and set(keys) & set(STATISTICS_KEYS):
            return StatisticsReference(path, asserted, role)
    return ImageReference(path, asserted, role)
