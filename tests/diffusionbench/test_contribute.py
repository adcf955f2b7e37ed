"""The pages on contributing are tried: their code runs as another package, under the contract tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from diffusionbench.study import submission
from diffusionbench.study.columns import read_boards
from nanogen.config import compose

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for path in (ROOT / "docs" / "contribute").glob("*.md") if path.name != "README.md")
KINDS = (
    *("latent", "objective", "loss", "optimizer", "condition", "data-set", "metric", "judge", "reference"),
    *("source", "prompt-set", "axis", "benchmark", "column", "method", "result"),
)
# Pages whose code is a row of a table under contract tests, and the tests.
CONTRACTS = {
    "latent": "latents",
    "objective": "objectives",
    "loss": "losses",
    "optimizer": "optimizers",
    "condition": "conditions",
    "data-set": "datasets",
    "metric": "metrics",
    "judge": "judges",
    "reference": "references",
    "source": "sources",
    "prompt-set": "prompts",
    "axis": "axes",
}


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


def test_there_is_a_page_of_each_kind_and_the_list_links_it():
    assert {page.stem for page in PAGES} == set(KINDS)
    text = (ROOT / "docs" / "contribute" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\(([\w-]+)\.md\)", text) == list(KINDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_short_ends_in_a_command_and_names_files_that_exist(page):
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 90
    assert re.search(r"\n(diffusionbench|nanogen|pytest) [^\n]+\n```\n$", text)
    for path in re.findall(r"`((?:src|examples|tests|tools)/[\w/.-]+)`", text):
        if "/foo" not in path:
            assert (ROOT / path).exists(), path


@pytest.fixture(scope="module")
def outcome(tmp_path_factory) -> dict[str, set[str]]:
    """Install the packages of all pages, run the contract tests on their rows: outcome -> ids of tests."""
    folder = tmp_path_factory.mktemp("contributed")
    site, tests = folder / "site", folder / "tests"
    points: dict[str, dict[str, str]] = {}
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copytree(ROOT / "tests", tests, ignore=shutil.ignore_patterns("__pycache__", "mutants", "oracle"))
    for page in (page for page in PAGES if page.stem in CONTRACTS):
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
    command += [str(tests / "contracts" / f"test_{table}.py") for table in CONTRACTS.values()]
    environment = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT / 'src'}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    found: dict[str, set[str]] = {"output": {done.stdout + done.stderr}, "site": {str(site)}}
    for word, node in re.findall(r"^(PASSED|FAILED|ERROR|SKIPPED) (.*?)(?: - .*)?$", done.stdout, re.MULTILINE):
        found.setdefault(word, set()).add(node)
    return found


def test_the_rows_of_the_pages_are_chosen_by_the_command_line(outcome):
    (site,) = outcome["site"]
    words = ["latent=inverted", "objective.name=early", "losses.small.weight=0.1", "optim.name=momentum"]
    command = [sys.executable, "-m", "nanogen", "train", "--task", "digits", "--dry-run", *words]
    environment = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT / 'src'}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", CONTRACTS)
def test_the_code_of_a_page_keeps_the_contract_of_its_table(kind, outcome):
    page = ROOT / "docs" / "contribute" / f"{kind}.md"
    (rows,) = entry_points(page).values()
    (name,) = rows
    tests = f"test_{CONTRACTS[kind]}.py::"
    passed = {node for node in outcome.get("PASSED", ()) if tests in node and name in node}
    broken = {node for word in ("FAILED", "ERROR") for node in outcome.get(word, ()) if tests in node and name in node}
    (output,) = outcome["output"]
    assert not broken, output[-6000:]
    assert len(passed) >= 2, output[-6000:]


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


def test_the_benchmark_page_shows_the_files_of_the_example():
    shown = files(ROOT / "docs" / "contribute" / "benchmark.md")
    assert shown
    for name, text in shown.items():
        whole = (ROOT / "examples" / "colours" / "src" / name).read_text(encoding="utf-8")
        assert text.partition("\n")[2].strip() in whole, name


def test_the_records_folder_is_valid():
    reports = submission.check_folder(ROOT / "records")
    assert {str(path): report.problems for path, report in reports.items() if report.problems} == {}
