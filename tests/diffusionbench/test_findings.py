"""The generated page is current, and its commands print its numbers."""

import re
import shlex
from pathlib import Path

from making import invoke

from diffusionbench.study import findings

PAGE = Path(__file__).parents[2] / "docs" / "findings.md"


def test_page_is_current():
    assert PAGE.read_text("utf-8") == findings.page(), (
        "run: python -m diffusionbench.study.findings --out docs/findings.md"
    )


def test_commands_print_the_numbers():
    commands = list(dict.fromkeys(re.findall(r"^diffusionbench (.*)$", PAGE.read_text("utf-8"), re.M)))
    assert len(commands) > 10
    for number, command in (("-0.3017", commands[0]), ("-0.3622", commands[1])):
        result = invoke(*shlex.split(command), "--draws", "0")
        assert result.exit_code == 0, result.output
        assert number in result.output
        assert number in PAGE.read_text("utf-8")
    for command in commands:
        if command.startswith("board"):
            assert invoke(*shlex.split(command)).exit_code == 0
