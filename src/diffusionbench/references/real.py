"""Features of real images in blocks of 1,000, each the same whichever process makes it and whatever it made before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import numpy as np

from diffusionbench.errors import DataError
from diffusionbench.imagesets import ImageStream
from diffusionbench.judges.float32 import features_of
from diffusionbench.judges.judge import Judge
from diffusionbench.moments import BLOCK
from diffusionbench.sample import Sample, plain_item
from diffusionbench.schema import digest, file_digest
from diffusionbench.source import ArchiveSource, FolderSource, ImageSource


class RealImages(ImageSource, Protocol):
    """Images that exist, in an order.

    Attributes:
        classes: names of their classes in the order of the labels, or None where they have none.
        notes: what was not read, in sentences.
    """

    @property
    def labels(self) -> Sequence[int | None]:
        """Class of each image, None where it has none."""
        ...

    @property
    def classes(self) -> tuple[str, ...] | None: ...

    @property
    def notes(self) -> tuple[str, ...]: ...


def block_ranges(count: int) -> list[range]:
    """Return which of `count` images belong to each block."""
    return [range(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]


def block_keys(path: Path, source: FolderSource | ArchiveSource) -> list[str]:
    """Return a hash of each block's images: where some of a folder change, only their blocks need to be made again.

    Args:
        path: of the folder or archive that the source was opened from.
    """
    blocks = block_ranges(len(source.labels))
    if isinstance(source, ArchiveSource) or not path.is_dir():
        whole = file_digest(path)
        return [digest([whole, rows.start, rows.stop]) for rows in blocks]
    return [digest([_file_digest(source.files[place]) for place in rows]) for rows in blocks]


def _file_digest(path: Path) -> str | None:
    # An image that cannot be read is named where it is read as one.
    with suppress(OSError):
        return file_digest(path)
    return None


def real_images(
    source: RealImages, start: int = 0, stop: int | None = None
) -> Iterator[tuple[list[Sample], np.ndarray]]:
    """Give the images from `start` up to `stop` (the last, where None) in batches, with their samples.

    Raises:
        DataError: at the end, if one could not be read: leaving it out would change the statistics.
    """
    labels = source.labels
    samples = [Sample(place, plain_item(labels[place])) for place in range(len(labels))[start:stop]]
    stream = ImageStream(source, samples)
    yield from stream.batches(len(samples))
    if faults := list(stream.unreadable(len(source.labels)).values()):
        raise DataError(
            f"reference {source.description}: {len(faults)} images cannot be read, or are of another size; the first: "
            f"{faults[0]}. Replace them, take them out, or crop all to one size (docs/data.md, 'Score them')."
        )


def feature_block(source: RealImages, judge: Judge, rows: range) -> np.ndarray:
    """Return the features float32 [n, d] of a block's images; its batches start where the block does.

    Raises:
        DataError: if an image cannot be read, or its features are not finite; the first is named.
    """
    found = []
    for samples, images in real_images(source, rows.start, rows.stop):
        found.append(features_of(judge, images))
        bad = ~np.isfinite(found[-1]).all(axis=1)
        if bad.any():
            raise DataError(
                f"reference {source.description}: the features of image {samples[int(bad.argmax())].id} by judge "
                f"'{judge.name}' are not finite. Take it out of the reference."
            )
    return np.concatenate(found)
