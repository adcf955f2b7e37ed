"""Compare two records: protocols, and values with their uncertainty."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from diffusionbench.catalog import direction
from diffusionbench.record import Record, Value
from diffusionbench.shown import printable

# Two-sided 5 % of a standard normal.
_Z = 1.96


@dataclass(frozen=True)
class Difference:
    """One metric in both records; `beyond`: more than 1.96 joint standard errors apart, None without uncertainty."""

    first: float
    second: float
    stderr: float | None
    beyond: bool | None


@dataclass(frozen=True)
class Comparison:
    """Differing protocol fields, shared values, and metrics that only one of two records holds."""

    protocol: dict[str, tuple[Any, Any]]
    values: dict[str, Difference]
    missing: dict[str, str]

    @property
    def differs(self) -> bool:
        """True unless both records hold the same metrics, under one protocol, with equal values."""
        unequal = any(d.beyond or (d.beyond is None and d.first != d.second) for d in self.values.values())
        return bool(self.protocol or self.missing) or unequal

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"differs": self.differs, **asdict(self)}

    def as_text(self) -> str:
        """Return one line per difference or shared value."""
        lines = [f"protocols differ in {key}: {a} and {b}" for key, (a, b) in self.protocol.items()]
        lines += [f"{key}: only in the {which} record" for key, which in self.missing.items()]
        for key, found in self.values.items():
            verdict = {True: "differ", False: "agree within their uncertainty", None: "no uncertainty to compare with"}
            lines.append(f"{key}: {found.first:.6g} and {found.second:.6g}, {verdict[found.beyond]}")
        return "\n".join(map(printable, lines))


def compare(first: Record, second: Record) -> Comparison:
    """Compare two records, assuming independent draws of images; values without a direction are no scores."""
    scores = [
        {key: value for key, value in record.values.items() if direction(key, value) is not None}
        for record in (first, second)
    ]
    a, b = first.protocol.model_dump(mode="json"), second.protocol.model_dump(mode="json")
    # Another seed, or another noise rule, is another draw under the same protocol.
    protocol = {key: (a[key], b[key]) for key in a if a[key] != b[key] and key not in ("seed", "noise", "notes")}
    shared = [key for key in scores[0] if key in scores[1]]
    missing = {key: "first" for key in scores[0] if key not in shared}
    missing |= {key: "second" for key in scores[1] if key not in shared}
    values = {}
    for key in shared:
        one, other = (held[key].value for held in scores)
        errors = [_stderr(held[key]) for held in scores]
        joint, beyond = None, False if one == other else None
        if errors[0] is not None and errors[1] is not None:
            joint = math.hypot(errors[0], errors[1])
            beyond = abs(one - other) > _Z * joint
        values[key] = Difference(one, other, joint, beyond)
    return Comparison(protocol, values, missing)


def _stderr(value: Value) -> float | None:
    if value.stderr is not None or value.interval is None:
        return value.stderr
    return (value.interval[1] - value.interval[0]) / (2 * _Z)
