"""Measures what one difference of two protocols alone does to a number, where the images are stored.

The stored images of one record are scored again with one setting of the other record at a time: its reference, its
count (of every class its share), its judge. Settings that decided how the images were made or written cannot be changed
afterwards; they are named with the reason.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from diffusionbench.errors import DataError, RequestError, UserError
from diffusionbench.imagesets import StoredImage, images_digest
from diffusionbench.judges import JUDGES
from diffusionbench.record import Record
from diffusionbench.request import EvalRequest, Evaluation
from diffusionbench.runner import score
from diffusionbench.sample import Sample
from diffusionbench.shown import first_line
from diffusionbench.store import STORE, ImageStore
from diffusionbench.study.explain import Effect, Explanation, explain

# Why a difference cannot be measured on stored images.
_FIXED: Final[Mapping[str, str]] = {
    "quantisation": "not reproducible: images are stored as 8 bits, after quantisation",
    "image_format": "not reproducible: images are stored as they were read, after compression",
    "items_digest": "the images were made for other items",
    "images_per_prompt": "the images were made for other items",
    "prompts": "the images were made for other items",
    "prompts_digest": "the images were made for other items",
    "axis": "the images were made for another task",
    "name": "a name alone changes no number",
}
_METHOD: Final = "decided when the images were made"
_TOGETHER: Final = "all of these"


class _Images:
    """Images of a store without its evidence, so that the judges of this installation judge anew; all or a subset."""

    def __init__(self, store: ImageStore, held: int, count: int) -> None:
        """Take `count` of the first `held` images, of every class its share, so that the order plays no part."""
        self.description, self.image_format = store.description, store.image_format
        self._store, self._held = store, held
        entries = store.entries(held)
        sizes = Counter(entry.label for entry in entries)
        seen: Counter[int | None] = Counter()
        places = []
        for entry in entries:
            places.append(((seen[entry.label] + 0.5) / sizes[entry.label], entry.id))
            seen[entry.label] += 1
        self._ids = {identifier for _, identifier in sorted(places)[:count]}

    def batches(self, count: int) -> Iterator[tuple[list[Sample], np.ndarray]]:
        for samples, images in self._store.batches(self._held):
            kept = [place for place, sample in enumerate(samples) if sample.id in self._ids]
            if kept:
                yield [samples[place] for place in kept], images[kept]

    def entries(self, count: int) -> list[StoredImage]:
        return [entry for entry in self._store.entries(self._held) if entry.id in self._ids]

    def unreadable(self, count: int) -> dict[int, str]:
        return {}

    def seconds(self) -> float:
        return self._store.seconds()


def check_folders(folders: Iterable[Path]) -> None:
    """Check that what a user names as folders of image stores are some: a slip would otherwise be a missing store.

    Raises:
        RequestError: naming the first that is none.
    """
    for folder in folders:
        if not folder.is_dir():
            raise RequestError(f"--stores {folder}: there is no such folder. Give one that holds image stores.")


def find_store(record: Record, path: Path, folders: Iterable[Path] = ()) -> ImageStore | None:
    """Return the store with the images of a record: below the folders, beside the record, or where its command says."""
    places = [*folders, path.resolve().parent]
    # A shell would have refused what `shlex` refuses.
    with suppress(ValueError):
        words = shlex.split(record.provenance.command or "")
        places += [Path(after) for word, after in pairwise(words) if word == "--store"]
    for folder in dict.fromkeys(places):
        for depth in ("", "*/", "*/*/"):
            for found in sorted(folder.glob(f"{depth}{STORE}")):
                try:
                    store = ImageStore(found.parent)
                    held = images_digest(store.entries(record.protocol.count or 0))
                except UserError:
                    continue
                if held == record.provenance.images_digest:
                    return store
    return None


def effects(
    first: Record, second: Record, stores: Sequence[ImageStore | None], device: str = "cpu"
) -> tuple[Explanation, list[Effect]]:
    """Return the differences of two protocols, and what each alone does to the metrics that it keeps apart.

    Args:
        stores: with the images of either record, or None. The first that can show a difference shows it.
        device: of the judges.
    """
    found = explain(first, second)
    sides = [
        _Side("first", first, second, stores[0], device),
        _Side("second", second, first, stores[1], device),
    ]
    measured: list[Effect] = []
    for field, metrics in _fields(found).items():
        for key in metrics:
            tried = [side.effect(field, key) for side in sides]
            measured.append(next((one for one in tried if one.value is not None), tried[0]))
    for key in found.metrics:
        fields = [one.field for one in measured if one.metric == key and one.value is not None and one.of == "first"]
        if len(fields) > 1:
            measured.append(sides[0].effect(_TOGETHER, key, fields))
    return found, measured


def _fields(found: Explanation) -> dict[str, list[str]]:
    """Return the differences to measure, one for a judge or reference as a whole, with the metrics they keep apart."""
    fields: dict[str, list[str]] = {}
    for gap in found.gaps:
        name = ".".join(gap.field.split(".")[:2])
        metrics = gap.metrics if gap.kind == "rule" else tuple(found.metrics) if gap.kind == "method" else ()
        known = fields.setdefault(name, [])
        known += [key for key in metrics if key not in known]
    return {name: metrics for name, metrics in fields.items() if metrics}


class _Side:
    """One record with its images, scored under settings of the other record."""

    def __init__(self, name: str, own: Record, other: Record, store: ImageStore | None, device: str) -> None:
        self.name, self.own, self.other, self.store, self.device = name, own, other, store, device

    def effect(self, field: str, key: str, together: Sequence[str] = ()) -> Effect:
        """Return what the other record's setting of a field, or of several, does to the value of a metric."""
        try:
            value = self._value(together or (field,), key)
        except UserError as error:
            return Effect(field, key, self.name, reason=first_line(error))
        return Effect(field, key, self.name, value, value - self.own.values[key].value)

    def _value(self, fields: Sequence[str], key: str) -> float:
        for field in fields:
            if not field.startswith(("references.", "judges.")) and field != "count":
                raise DataError(_FIXED.get(field, _METHOD))
        if self.store is None:
            raise DataError(f"the images of the {self.name} record are not stored here; name their store")
        request, wanted = self._request(self.own), self._request(self.other)
        changes: dict[str, Any] = {"count": self.own.protocol.count}
        names = ("reference", "references", "reference_extractors", "reference_role")
        given: dict[str, Any] = {}
        images: ImageStore | _Images = self.store
        for field in fields:
            if field == "count":
                changes["count"] = self._count()
            elif field.startswith("references."):
                given = {name: getattr(wanted.with_metrics((key,)), name) for name in names}
            else:
                judge = field.removeprefix("judges.")
                wants = self.other.protocol.judges.get(judge)
                if wants is None or JUDGES.load(judge)(self.device).digest != wants.digest:
                    raise DataError(f"judge '{judge}' is another one here than the other record's")
        if "count" in fields or any(field.startswith("judges.") for field in fields):
            images = _Images(self.store, self.own.protocol.count or 0, changes["count"])
        evaluation = Evaluation(request.with_metrics((key,), **given).model_copy(update=changes))
        made = score(evaluation, images, self.device)
        for field in fields:
            if field.startswith("references."):
                judge = field.removeprefix("references.")
                used, stated = made.protocol.references.get(judge), self.other.protocol.references.get(judge)
                if used is None or stated is None or used.digest != stated.digest:
                    raise DataError("the real images of that name are others here than the record states")
        return made.values[key].value

    def _request(self, record: Record) -> EvalRequest:
        try:
            return EvalRequest.model_validate(record.extra.get("request"))
        except ValueError:
            raise DataError(f"record '{record.id}' does not hold its request") from None

    def _count(self) -> int:
        wanted, held = self.other.protocol.count, self.own.protocol.count
        if wanted is None or held is None or wanted > held:
            raise DataError(f"the {self.name} record has {held} images, fewer than {wanted}")
        return wanted
