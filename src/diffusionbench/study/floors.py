"""Scores at their floor: what a method that ignores its prompts would get, so that they order nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from diffusionbench.catalog import metric_info
from diffusionbench.metrics import METRICS
from diffusionbench.record import Record, Value, stderr_of
from diffusionbench.stats import NORMAL_975

#: Methods at the floor from which on a metric no longer stands alone.
SEVERAL: Final = 2


@dataclass(frozen=True)
class Floor:
    """Methods at the floor of a metric, and of its parts.

    Attributes:
        low: names of those at the floor of the metric itself.
        parts: by the key of each part the number of those at its floor.
        methods: how many there are.
    """

    key: str
    low: tuple[str, ...]
    parts: Mapping[str, int]
    methods: int

    @property
    def several(self) -> bool:
        """Return whether so many methods are at the floor that the metric hides their order."""
        return len(self.low) >= SEVERAL

    @property
    def off(self) -> tuple[str, ...]:
        """Return the keys of the parts that tell the methods apart, the one with the fewest at its floor first."""
        return tuple(sorted((key for key, n in self.parts.items() if n < SEVERAL), key=lambda key: self.parts[key]))


def at_floor(key: str, value: Value) -> bool:
    """Return whether a text-to-image score cannot be told from 0: SimpleEval's chance, the least of a share.

    Without a stated error only values of 0 and below are.
    """
    if metric_info(key).axis != "t2i":
        return False
    return value.value - NORMAL_975 * (stderr_of(value) or 0.0) <= 0


def floor_of(records: Mapping[str, Record], key: str, families: Iterable[str]) -> Floor:
    """Return how many methods are at the floor of a metric and of its families.

    Args:
        records: one of each method, by its name; those without the metric are left out.
        families: endings of the keys of its parts.
    """
    held = {name: record.values for name, record in records.items() if key in record.values}
    parts = {
        part: sum(at_floor(part, values[part]) for values in held.values())
        for part in (f"{key}_{family}" for family in families)
        if held and all(part in values for values in held.values())
    }
    low = tuple(name for name, values in held.items() if at_floor(key, values[key]))
    return Floor(key, low, parts, len(held))


def families_of(key: str, values: Iterable[str]) -> tuple[str, ...]:
    """Return the families of a metric of prompts among the keys of a record; numbers beside them are none."""
    beside = {"single", "held"}
    found = [name.removeprefix(f"{key}_") for name in values if name.startswith(f"{key}_") and name not in METRICS.own]
    return tuple(name for name in found if name not in beside)
