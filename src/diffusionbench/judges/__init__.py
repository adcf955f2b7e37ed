"""The table of judges: networks and rules that map images, and items where they ask questions, to evidence.

An extractor is a row whose output is an array and which asks nothing: one pass of it serves every metric that names it.
To add a judge: a `JudgeSpec` here (or behind an entry point) and a `judges.judge.Judge` in a file of its own. The
metrics of `metrics.of_judge` then exist for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from diffusionbench.registry import Table

TOLERANCE: Final = 1e-3
"""Largest relative deviation from shipped outputs at which scores of two machines still compare."""


@dataclass(frozen=True, kw_only=True)
class JudgeSpec:
    """One row of `JUDGES`: all that a request is checked by, without code or weights.

    Attributes:
        name: its key in the table, and the ending of its metrics' keys.
        title: what it is, in a few words, as in "accuracy by <title>".
        load: "module:Class" of its `Judge`.
        output: "array": a mapping of arrays with one row an image; "rows": a list with one row an image.
        uses: names of the judges whose evidence it is given.
        dim: width of its "features", 0 where it has none.
        num_classes: width of its "logits" where these are the classes 0..num_classes - 1 of a request, else None.
        classes: names of those classes, by which folders of images are numbered; None where they have none.
        image_size: the only (height, width) it accepts, or None for any.
        licence: of its weights.
        sha256: of its weight file, or the first digits that are published; None where it has none.
        kid_subset: images in a subset of the kernel distance in its features.
        options: thresholds and other settings with their defaults; part of the digest.
        self_test: whether it was shipped with outputs to test against.
        in_protocol: whether its digest stands in a record's protocol; no only where the record holds it elsewhere.
    """

    name: str
    title: str
    load: str
    output: Literal["array", "rows"] = "array"
    uses: tuple[str, ...] = ()
    dim: int = 0
    num_classes: int | None = None
    classes: tuple[str, ...] | None = None
    image_size: tuple[int, int] | None = None
    licence: str
    sha256: str | None = None
    kid_subset: int = 1000
    options: Mapping[str, Any] = field(default_factory=dict)
    self_test: bool = False
    in_protocol: bool = True


@dataclass(frozen=True)
class Unjudged:
    """Stands for the row of an image that a judge could not judge; it is counted and named.

    Attributes:
        reason: in words.
    """

    reason: str


DIGITS: Final = JudgeSpec(
    name="digits",
    title="the digit classifier",
    load="diffusionbench.judges.digits:DigitsJudge",
    dim=64,
    num_classes=10,
    classes=tuple("0123456789"),
    licence="Apache-2.0",
    sha256="6f84c79195c62d199deaf9e21e275ada6a138955a735af8755f757036288de29",
    kid_subset=200,
    self_test=True,
)
PIXELS: Final = JudgeSpec(
    name="pixels",
    title="the images themselves, for metrics that judge pictures",
    load="diffusionbench.judges.pixels:Pixels",
    licence="none",
)
INCEPTION: Final = JudgeSpec(
    name="inception",
    title="Inception-v3",
    load="diffusionbench.judges.inception:Inception",
    dim=2048,
    licence="Apache-2.0",
    sha256="6726825d",
)

JUDGES: Final = Table("judge", {row.name: row for row in (DIGITS, PIXELS, INCEPTION)}, group="diffusionbench.judges")
