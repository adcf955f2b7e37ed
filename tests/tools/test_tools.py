"""Every tool stands in the table of `tools/README.md`, has a test, and says how it is called."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = sorted((ROOT / "tools").glob("*.py"))


def test_the_table_names_every_tool_and_no_other():
    named = re.findall(r"`(?:python )?(tools/\w+\.py)", (ROOT / "tools" / "README.md").read_text("utf-8"))
    assert sorted(set(named)) == [f"tools/{path.name}" for path in TOOLS]


@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: path.stem)
def test_a_tool_has_a_test_and_help(tool):
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert re.search(rf"^import .*\b{tool.stem}\b", tests, re.MULTILINE), f"no test imports {tool.name}"
    done = subprocess.run([sys.executable, tool, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert tool.name in done.stdout
