"""Boards that tests declare for themselves."""

from __future__ import annotations

from typing import Any

from diffusionbench.record import Protocol
from diffusionbench.study.columns import BoardFile, BoardSpec, accepted, boards_of


def declare(*columns: dict[str, Any], name: str = "mine", **facts: Any) -> BoardSpec:
    """A board over measured records with these groups of columns."""
    accepted = facts.pop("accepted", {})
    board = {"name": name, "version": 1, "title": name, "records": "measured", "columns": columns} | facts
    return boards_of(BoardFile.model_validate({"accepted": accepted, "boards": [board]}))[0]


def laptop_protocol(reference: str = "digits", **changes: Any) -> Protocol:
    """The protocol that the columns of the laptop board's digits insist on, unguided; "digits:odd" of the study's."""
    given = {
        "name": "class_conditional",
        "axis": "class_conditional",
        "judges": {"digits": {"digest": accepted().judges["digits"][0]}},
        "references": {"digits": {"name": reference, "digest": accepted().references[reference][0]}},
        "items_digest": "0" * 64,
        "count": 359,
        "quantisation": "truncate",
        "guidance": {"scale": 1.0},
    }
    return Protocol.model_validate(given | changes)
