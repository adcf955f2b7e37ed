"""The pages name tables, groups and commands that exist."""

import re
from pathlib import Path

import pytest

from diffusionbench.axes import AXES
from diffusionbench.metrics import METRICS
from diffusionbench.prompts import PROMPTS
from diffusionbench.study import submission

ROOT = Path(__file__).parents[2]
PAGES = ("record", "method", "latent", "metric", "prompt-set", "axis")


@pytest.mark.parametrize("page", PAGES)
def test_each_page_ends_in_a_command(page):
    text = (ROOT / "docs" / "contribute" / f"{page}.md").read_text("utf-8")
    assert re.search(r"\n *(diffusionbench|nanogen) .+\n(```\n)?$", text)
    assert len(text.splitlines()) < 40
    assert f"({page}.md)" in (ROOT / "docs" / "contribute" / "README.md").read_text("utf-8")
    for path in re.findall(r"`(src/[\w/.]+|examples/\w+)`", text):
        if not path.endswith("foo.py"):
            assert (ROOT / path).exists(), path


def test_entry_point_groups_are_ours():
    texts = "".join((ROOT / "docs" / "contribute" / f"{page}.md").read_text("utf-8") for page in PAGES)
    assert f"`{METRICS.group}`" in texts
    assert f"`{AXES.group}`" in texts
    assert f"`{PROMPTS.group}`" in texts


def test_records_folder_is_valid():
    reports = submission.check_folder(ROOT / "records")
    assert {str(path): report.problems for path, report in reports.items() if report.problems} == {}
