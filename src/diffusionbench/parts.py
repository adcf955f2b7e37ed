"""Parts of an evaluation: which samples belong to one, and how parts that were made apart become one store again.

Parts start at multiples of `BLOCK` samples. Batches of images and of judges start anew in every block, so a part has
the batches, and hence the bits, that one process would have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from diffusionbench.errors import DataError, RequestError
from diffusionbench.evidence import EVIDENCE, EvidenceStore, copy_files
from diffusionbench.judges.judge import JudgeFacts
from diffusionbench.moments import BLOCK
from diffusionbench.sample import Sample
from diffusionbench.shown import clipped, few
from diffusionbench.store import STORE, ImageStore


class Part(NamedTuple):
    """Part `number` of `of`, from 1."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Part:
        """Return the part that "i/n" names.

        Raises:
            RequestError: if it is no such text.
        """
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text, re.ASCII)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise RequestError(f"'{clipped(text, 40)}' is no part. Give i/n with i from 1 to n, such as 2/8.")
        return cls(int(found[1]), int(found[2]))

    def span(self, count: int) -> range:
        """Return the ids that belong to it of `count` samples; none where there are fewer blocks than parts."""
        blocks = -(-count // BLOCK)
        first, last = ((place * blocks // self.of) * BLOCK for place in (self.number - 1, self.number))
        return range(min(first, count), min(last, count))


WHOLE: Final = Part()


def batch_of(sample: int, size: int) -> tuple[int, int]:
    """Return the block of a sample and its batch there, where batches of `size` start anew in every block."""
    block, place = divmod(sample, BLOCK)
    return block, place // size


def in_batches(samples: Sequence[Sample], size: int) -> list[list[Sample]]:
    """Return samples of rising ids as they are asked for together."""
    return [list(group) for _, group in groupby(samples, key=lambda sample: batch_of(sample.id, size))]


def regrouped(
    batches: Iterator[tuple[list[Sample], np.ndarray]], size: int
) -> Iterator[tuple[list[Sample], np.ndarray]]:
    """Give the same samples of rising ids with their images [B, H, W, 3] in the batches of `in_batches`."""
    pairs = ((sample, image) for some, pixels in batches for sample, image in zip(some, pixels, strict=True))
    for _, group in groupby(pairs, key=lambda pair: batch_of(pair[0].id, size)):
        samples, images = zip(*group, strict=True)
        yield list(samples), np.stack(images)


def find_store(folder: Path) -> ImageStore:
    """Open the image store in a folder, or the only one below it.

    Raises:
        DataError: if there is none, or several.
    """
    inside = [path.parent for path in sorted(folder.glob(f"*/{STORE}"))]
    if inside and not (folder / STORE).exists():
        if len(inside) > 1:
            names = few([path.name for path in inside])
            raise DataError(f"{folder} holds {len(inside)} image stores ({names}). Name one of them.")
        folder = inside[0]
    return ImageStore(folder)


def merge(out: Path, folders: Sequence[Path]) -> ImageStore:
    """Unite the images and the evidence of parts in one store below `out`; what is there already is not copied again.

    Raises:
        DataError: if a folder is no image store.
        RequestError: if the parts are of different images or judges, overlap, or one of them is missing.
    """
    parts = [find_store(folder) for folder in folders]
    first = parts[0]
    count = first.manifest.request.count
    for part in parts[1:]:
        if part.manifest.key != first.manifest.key:
            raise RequestError(
                f"{part.folder} holds images of {part.description} (key {part.manifest.key[:12]}), and {first.folder} "
                f"of {first.description} (key {first.manifest.key[:12]}): another source, seed or sampling. Merge "
                "parts of one evaluation."
            )
        if part.manifest.request.count != count:
            raise RequestError(
                f"{part.folder} is a part of {part.manifest.request.count:,} images, and {first.folder} one of "
                f"{count:,}. Make all parts with the same --num."
            )
    _check_ids(parts, count)
    _check_judges(parts)
    whole = ImageStore.create(out / first.manifest.key[:16], first.manifest)
    own = set(whole.chunks())
    for part in parts:
        for name in part.chunks():
            if name not in own:
                copy_files(part.folder, whole.folder, name)
        EvidenceStore(whole.folder / EVIDENCE).adopt(EvidenceStore(part.folder / EVIDENCE))
    whole.check_whole(count)
    return whole


def _check_ids(parts: Sequence[ImageStore], count: int) -> None:
    """Refuse parts that overlap or leave samples out."""
    owners: dict[int, ImageStore] = {}
    for part in parts:
        twice = [sample for sample in part.ids() if owners.setdefault(sample, part) is not part]
        if twice:
            raise RequestError(
                f"{owners[twice[0]].folder} and {part.folder} overlap: both hold image {twice[0]} ({len(twice):,} "
                "images in all). Give every part once, all of them parts i/n of the same n."
            )
    missing = [sample for sample in range(count) if sample not in owners]
    if missing:
        raise RequestError(
            f"{len(missing):,} of {count:,} images are in none of the {len(parts)} parts, or their files are damaged "
            f"(first: {missing[0]}, last: {missing[-1]}). Give the missing part as well, or finish it with the command "
            "that made it."
        )


def _check_judges(parts: Sequence[ImageStore]) -> None:
    """Refuse evidence of different judges under one name."""
    seen: dict[str, tuple[dict[str, JudgeFacts], Path]] = {}
    for part in parts:
        by_name: dict[str, dict[str, JudgeFacts]] = {}
        for manifest in EvidenceStore(part.folder / EVIDENCE).judges():
            by_name.setdefault(manifest.facts.name, {})[manifest.facts.key] = manifest.facts
        for name, own in by_name.items():
            others, folder = seen.setdefault(name, (own, part.folder))
            if not own.keys() & others.keys():
                one, other = (next(iter(facts.values())) for facts in (own, others))
                raise RequestError(
                    f"the evidence in {part.folder} is of judge '{name}', version {one.version}, digest "
                    f"{one.digest[:12]}, and that in {folder} of version {other.version}, digest {other.digest[:12]}. "
                    "Judge one of the parts again with the same installation and weights."
                )
