"""Options that come in groups reach a verb as one value, and the program as options of their own."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from diffusionbench.errors import RequestError
from diffusionbench.verbs import check_given, with_groups

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


@pytest.mark.parametrize(
    "words, empty",
    [
        (["board", ""], "board"),
        (["run", "images", "--store", ""], "--store"),
        (["run", "images", "--store="], "--store"),
        (["sample", "run", "--prompt", "", "--out", ""], "--out"),
    ],
)
def test_what_is_empty_is_refused_by_name(words, empty):
    with pytest.raises(RequestError, match=f"^what follows '{empty}' is empty, as an unset variable is"):
        check_given(["program", *words])


def test_a_prompt_may_be_empty():
    check_given(["nanogen", "sample", "run", "--prompt", "", "--prompt=", "x=", "--out", "o"])


@pytest.mark.parametrize("program", ["nanogen", "diffusionbench"])
def test_both_programs_look_at_what_they_are_given(program, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [program, "doctor", ""])
    with pytest.raises(SystemExit) as ended:
        import_module(f"{program}.cli").main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("RequestError: what follows 'doctor' is empty")
