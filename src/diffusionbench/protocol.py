"""Which differences of two protocols keep two values of one metric apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from diffusionbench.metrics import METRICS
from diffusionbench.record import JudgeUsed, Record, ReferenceUsed, Value

# Fields that must agree before two values of one metric are compared, beside its judges and references.
COMPARED: Final = (
    "name",
    "axis",
    "items_digest",
    "count",
    "images_per_prompt",
    "prompts",
    "prompts_digest",
    "quantisation",
    "image_format",
)
# Formats that keep every pixel, and images that were made, are one; what another format did to them is not known.
LOSSLESS: Final = frozenset({"png", "npz", "raw"})
# How a method samples is part of the method; another seed or noise rule is another draw; the rest are remarks.
NOT_COMPARED: Final = (
    *("sampler", "num_steps", "shift", "guidance", "ema", "precision", "tuning"),
    *("seed", "noise"),
    "notes",
)


def protocol_difference(left: Record, right: Record, key: str) -> dict[str, tuple[object, object]]:
    """Return the compared fields in which the protocols behind two values of one metric differ, with both contents.

    Of judges and references only those count whose evidence the value reduces: what another metric of the record used
    changes nothing. Where neither value states its judges, those count that both records name, or all if they share
    none.

    Args:
        key: of the metric; a record that lacks it states no judges of it.
    """
    a, b = left.protocol, right.protocol
    pairs = {field: (getattr(a, field), getattr(b, field)) for field in COMPARED}
    stated = {*_judges(left.values.get(key)), *_judges(right.values.get(key))}
    for name in sorted(stated or _shared(a.judges, b.judges)):
        pairs |= _parts(f"judges.{name}", a.judges.get(name), b.judges.get(name))
    if key not in METRICS or METRICS[key].reference:
        for name in sorted(stated or _shared(a.references, b.references)):
            pairs |= _parts(f"references.{name}", a.references.get(name), b.references.get(name))
    if all(one is None or {*one.split("+")} <= LOSSLESS for one in (a.image_format, b.image_format)):
        del pairs["image_format"]
    return {field: pair for field, pair in pairs.items() if pair[0] != pair[1]}


def _judges(value: Value | None) -> tuple[str, ...]:
    return () if value is None else value.judges


def _shared(left: Iterable[str], right: Iterable[str]) -> set[str]:
    return {*left} & {*right} or {*left} | {*right}


def _parts(
    where: str, left: JudgeUsed | ReferenceUsed | None, right: JudgeUsed | ReferenceUsed | None
) -> dict[str, tuple[object, object]]:
    """Return the contents of both, field by field where both are there."""
    if left is None or right is None:
        plain = [None if one is None else one.model_dump(mode="json") for one in (left, right)]
        return {where: (plain[0], plain[1])}
    return {f"{where}.{field}": (getattr(left, field), getattr(right, field)) for field in type(left).model_fields}
