"""What a training cost, and how soon it reached a score, as values that boards, correlations and figures take.

They follow from a record's `cost` and `progress` and are no measurements of their own: `training_images`,
`training_flops`, `device_hours`, `money`, and `epochs_to_METRIC@K` for any metric and value K. They belong to the
network of the record that they stand in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from diffusionbench.catalog import DERIVED, direction
from diffusionbench.record import Record, Value

_REACHED: Final = re.compile(r"epochs_to_(?P<metric>[^@]+)@(?P<value>-?\d+(\.\d+)?)")


def is_derived(key: str) -> bool:
    """Return whether a key names a cost, or the epochs to a score."""
    return key in DERIVED or _REACHED.fullmatch(key) is not None


def derived_value(record: Record, key: str) -> Value | None:
    """Return a value that follows from a record's cost or progress; None where it does not state them.

    The epochs to a score are those of the first evaluation that is at least as good, so they are known to the distance
    of two evaluations; None where none is.
    """
    if key in DERIVED:
        found = None if record.cost is None else getattr(record.cost, key)
        return None if found is None else Value(value=float(found), higher_is_better=False)
    if (asked := _REACHED.fullmatch(key)) is None:
        return None
    metric, wanted = asked["metric"], float(asked["value"])
    known = record.values.get(metric)
    better = direction(metric, known if known is not None else Value(value=wanted))
    before = 0.0
    for one in record.progress:
        score = one.scores.get(metric)
        if score is None:
            continue
        if better is not None and (score >= wanted if better else score <= wanted):
            return Value(value=one.epoch, higher_is_better=False, note=f"not yet at epoch {before:g}")
        before = one.epoch
    return None


def with_derived(record: Record, keys: Iterable[str]) -> Record:
    """Return a record that holds, beside its values, those of these keys that follow from its cost and progress."""
    found = {key: value for key in keys if (value := derived_value(record, key)) is not None}
    return record.model_copy(update={"values": {**record.values, **found}}) if found else record
