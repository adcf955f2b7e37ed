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
    assert (ROOT / "tests" / "tools" / f"test_{tool.stem}.py").exists()
    done = subprocess.run([sys.executable, tool, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert tool.name in done.stdout
