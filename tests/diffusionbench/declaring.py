"""Boards that tests declare for themselves."""

from __future__ import annotations

from typing import Any

from diffusionbench.study.columns import BoardFile, BoardSpec, boards_of


def declare(*columns: dict[str, Any], name: str = "mine", **facts: Any) -> BoardSpec:
    """A board over measured records with these groups of columns."""
    accepted = facts.pop("accepted", {})
    board = {"name": name, "version": 1, "title": name, "records": "measured", "columns": columns} | facts
    return boards_of(BoardFile.model_validate({"accepted": accepted, "boards": [board]}))[0]


# What a laptop-scale study of both axes would declare: no pins, every metric ranked.
BOTH = declare(
    {"metrics": ["fid"], "guidance": ["none", "cfg"], "rank": True},
    {"metrics": ["geneval_overall", "dpgbench"], "rank": True},
)
