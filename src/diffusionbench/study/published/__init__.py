"""Figures published by others, as records of kind `published`. Nothing here was measured by this project.

Two score sets lie side by side and are never mixed: `paper-2026-06` (paper and project page) and `blog-2026-05`
(the announcement's figure). A third, `paper-2026-06-reproducibility`, holds re-implementations next to the numbers
they reproduce, each row under a protocol of its own. `importer.py` makes the files from the published tables.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

from diffusionbench.record import Record

PAPER: Final = "paper-2026-06"
BLOG: Final = "blog-2026-05"
REPRODUCIBILITY: Final = "paper-2026-06-reproducibility"
SCORE_SETS: Final = (PAPER, BLOG, REPRODUCIBILITY)


@cache
def records(score_set: str | None = None) -> tuple[Record, ...]:
    """Return the published records of one score set, or of all three, in the order of the published tables."""
    wanted = SCORE_SETS if score_set is None else (score_set,)
    found: list[Record] = []
    for name in wanted:
        lines = (files(__name__) / f"{name}.jsonl").read_text("utf-8").splitlines()
        found += (Record.model_validate_json(line) for line in lines)
    return tuple(found)
