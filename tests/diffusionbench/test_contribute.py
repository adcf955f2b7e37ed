"""The pages on contributing are tried: their code runs as another package, under the contract tests."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusionbench.study import submission
from diffusionbench.study.columns import read_boards
from nanogen.config import compose

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for path in (ROOT / "docs" / "contribute").glob("*.md") if path.name != "README.md")
KINDS = (
    *("latent", "objective", "loss", "optimizer", "condition", "data-set", "metric", "judge", "reference"),
    *("source", "prompt-set", "axis", "benchmark", "column", "method", "result"),
)
# What the commands of the pages are given: pictures, and images of the benchmark's prompts.
FOLDERS = {"samples": [f"{k}.png" for k in range(30)]}
FOLDERS["drawn"] = [f"plain_hues/{hue}/{k}.png" for hue in ("red", "green", "blue") for k in range(2)]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def files(page: Path) -> dict[str, str]:
    """Return the Python blocks that begin with the comment of a file name, by that name."""
    found = {}
    for block in blocks(page, "python"):
        if name := re.match(r"# ([\w/]+\.py)\n", block):
            found[name[1]] = block
    return found


def entry_points(page: Path) -> dict[str, dict[str, str]]:
    """Return the entry points of a page: group -> name -> "module:row"."""
    return {
        group: rows
        for block in blocks(page, "toml")
        for group, rows in tomllib.loads(block)["project"]["entry-points"].items()
    }


CONTRACTS = [page.stem for page in PAGES if entry_points(page)]


def test_there_is_a_page_of_each_kind_and_the_list_links_it():
    assert {page.stem for page in PAGES} == set(KINDS)
    text = (ROOT / "docs" / "contribute" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\(([\w-]+)\.md\)", text) == list(KINDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_short_ends_in_a_command_and_names_files_that_exist(page):
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 130
    assert re.search(r"\n(diffusionbench|nanogen|pytest) [^\n]+\n```\n$", text)
    for path in re.findall(r"`((?:src|examples|tests|tools)/[\w/.-]+)`", text):
        if "/foo" not in path:
            assert (ROOT / path).exists(), path


def with_path(site: Path | str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT / 'src'}"}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory) -> dict[str, set[str]]:
    """Install the packages of all pages, run the contract tests on their rows: outcome -> ids of tests."""
    folder = tmp_path_factory.mktemp("contributed")
    site, tests = folder / "site", folder / "tests"
    points: dict[str, dict[str, str]] = {}
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copytree(ROOT / "tests", tests, ignore=shutil.ignore_patterns("__pycache__", "mutants", "oracle"))
    for page in PAGES:
        for name, text in files(page).items():
            path = (folder if name.startswith("tests/") else site) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            before = path.read_text(encoding="utf-8") if path.exists() else ""
            path.write_text(before + text, encoding="utf-8")
        for group, rows in entry_points(page).items():
            points.setdefault(group, {}).update(rows)
    info = site / "contributed-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: contributed\nVersion: 1.0\n")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {row}\n" for name, row in rows.items()) for group, rows in points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    names = [name for rows in points.values() for name in rows]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA"]
    command += ["--tb=short", "-k", f"({' or '.join(names)}) and not smallest"]
    files_of_tables = [f"contracts/test_{group.rpartition('.')[2]}.py" for group in points]
    more = ["contracts/test_metrics_of_prompts.py", "contracts/test_paths.py", "diffusionbench/test_metric_table.py"]
    command += [str(tests / file) for file in (*files_of_tables, *more)]
    done = subprocess.run(command, cwd=folder, env=with_path(site), capture_output=True, text=True)
    found: dict[str, set[str]] = {"output": {done.stdout + done.stderr}, "site": {str(site)}}
    for word, node in re.findall(r"^(PASSED|FAILED|ERROR|SKIPPED) (.*?)(?: - .*)?$", done.stdout, re.MULTILINE):
        found.setdefault(word, set()).add(node)
    return found


@pytest.mark.parametrize("kind", CONTRACTS)
def test_the_commands_of_a_page_choose_its_rows(kind, outcome, tmp_path):
    (site,) = outcome["site"]
    for folder, names in FOLDERS.items():
        for place, name in enumerate(names):
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), 8 * (place + 1), np.uint8)).save(path)
    commands = blocks(ROOT / "docs" / "contribute" / f"{kind}.md", "sh")[-1].splitlines()
    ours = [shlex.split(line) for line in commands if not line.startswith("pytest")]
    assert ours
    for command in ours:
        words = [sys.executable, "-m", *command]
        done = subprocess.run(words, cwd=tmp_path, env=with_path(site), capture_output=True, text=True)
        assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"


@pytest.mark.parametrize("kind", CONTRACTS)
def test_the_code_of_a_page_keeps_the_contract_of_its_table(kind, outcome):
    page = ROOT / "docs" / "contribute" / f"{kind}.md"
    (output,) = outcome["output"]
    for group, rows in entry_points(page).items():
        (name,) = rows
        tests = f"test_{group.rpartition('.')[2]}"

        def of_row(word, name=name):
            return {node for node in outcome.get(word, ()) if f"[{name}" in node or f"-{name}" in node}

        assert not of_row("FAILED") | of_row("ERROR"), output[-6000:]
        assert len({node for node in of_row("PASSED") if tests in node}) >= 2, output[-6000:]
        # The tests that the page names are those of the row.
        (tried,) = (line for line in blocks(page, "sh")[-1].splitlines() if line.startswith("pytest"))
        assert any(word in name for word in re.findall(r"[\w-]+", tried.partition(" -k ")[2])), tried
        assert all((ROOT / word).exists() for word in tried.split() if word.startswith("tests/"))


def test_a_metric_of_the_pages_has_its_formula(outcome):
    (output,) = outcome["output"]
    test = "test_metric_table.py::test_a_name_stands_for_its_formula[sure_digits]"
    assert any(test in node for node in outcome["PASSED"]), output[-6000:]


def test_the_row_of_the_method_page_is_a_config():
    (row,) = blocks(ROOT / "docs" / "contribute" / "method.md", "yaml")
    name, _, overrides = row.strip().splitlines()[-1].partition(": ")
    assert name == "my-method"
    keys = [part.replace(": ", "=") for part in overrides.strip("{}").split(", ")]
    assert compose("imagenet256", None, None, None, keys).config.latent.name == "sd-vae-ema"


@pytest.mark.parametrize("page", ["contribute/column.md", "boards.md"])
def test_the_boards_of_a_page_are_declared(page, tmp_path):
    (text,) = blocks(ROOT / "docs" / page, "yaml")
    (tmp_path / "boards.yaml").write_text(text)
    (board,) = read_boards(tmp_path / "boards.yaml")
    assert [column.id for column in board.columns][:2] == [
        "fd_digits",
        "kd_digits" if "column" in page else "fd_digits@cfg",
    ]


def test_the_records_folder_is_valid():
    reports = submission.check_folder(ROOT / "records")
    assert {str(path): report.problems for path, report in reports.items() if report.problems} == {}
