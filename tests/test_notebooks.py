"""The notebooks in examples/ run from top to bottom, as a kernel would run them, and are stored without outputs."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
# Run with the notebook as the argument: cells share one namespace, and the value of a cell's last line is shown.
KERNEL = """
import ast, json, sys
space = {"__name__": "__main__"}
for number, cell in enumerate(json.load(open(sys.argv[1], encoding="utf-8"))["cells"]):
    if cell["cell_type"] != "code":
        continue
    text = "".join(cell["source"])
    body = ast.parse(text).body
    last = body.pop() if isinstance(body[-1], ast.Expr) and not text.endswith(";") else None
    exec(compile(ast.Module(body, []), f"cell {number}", "exec"), space)
    if last is not None:
        shown = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), space)
        html = getattr(shown, "_repr_html_", None)
        print(f"[{number}]", html() if html else repr(shown))
"""


def test_there_are_two():
    assert {path.name for path in NOTEBOOKS} == {"score_your_own_model.ipynb", "train_and_sample.ipynb"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            ast.parse("".join(cell["source"]))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", KERNEL, str(path)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    # Every notebook ends in the table of a record.
    assert "<th>95 % interval</th>" in done.stdout.splitlines()[-1]
