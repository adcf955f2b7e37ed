"""Options that come in groups reach a verb as one value, and the program as options of their own."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import Annotated

import typer
from typer.testing import CliRunner

from diffusionbench.verbs import with_groups

seen: list[object] = []


@dataclass(frozen=True)
class Place:
    folder: Annotated[str, typer.Option("--folder", help="where")] = "here"
    deep: Annotated[bool, typer.Option("--deep")] = False


def verb(name: str, place: Place, count: Annotated[int, typer.Option("--count", min=1)] = 2) -> None:
    """Take what was given."""
    seen.append((name, place, count))


def test_a_group_is_its_fields_and_the_verb_gets_it_whole():
    flat = with_groups(verb)
    assert [*signature(flat).parameters] == ["name", "folder", "deep", "count"]
    assert (flat.__name__, flat.__doc__) == ("verb", verb.__doc__)
    app = typer.Typer()
    app.command()(flat)
    seen.clear()
    for words in (["a"], ["b", "--folder", "there", "--deep", "--count", "3"]):
        assert CliRunner().invoke(app, words).exit_code == 0
    assert seen == [("a", Place(), 2), ("b", Place("there", True), 3)]
    refused = CliRunner().invoke(app, ["c", "--count", "0"])
    assert refused.exit_code == 2
    assert len(seen) == 2
