"""The table of judges: networks and rules that map images, and items where they ask questions, to evidence.

An extractor is a row whose output is an array and which asks nothing: one pass of it serves every metric that names it.
To add a judge: a `JudgeSpec` here (or behind an entry point) and a `judges.judge.Judge` in a file of its own. The
metrics of `metrics.of_judge` then exist for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from diffusionbench.benchmarks import simpleeval
from diffusionbench.registry import Table
from diffusionbench.specs import JudgeSpec

TOLERANCE: Final = 1e-3
"""Largest relative deviation from shipped outputs at which scores of two machines still compare."""


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
    load="diffusionbench.judges.judge:Pixels",
    licence="none",
    kept=False,
)
INCEPTION: Final = JudgeSpec(
    name="inception",
    title="Inception-v3",
    load="diffusionbench.judges.inception:Inception",
    dim=2048,
    licence="Apache-2.0",
    sha256="6726825d",
)

_ROWS: Final = (DIGITS, PIXELS, INCEPTION, *simpleeval.JUDGES)
JUDGES: Final = Table("judge", {row.name: row for row in _ROWS}, group="diffusionbench.judges")
