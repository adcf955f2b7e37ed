"""The table of mutants fits the code as it is, and the program that applies them tells what was noticed."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

import mutants
from mutants import ROOT, Mutant, applied, noticed, read_table, selected

TABLE = read_table()


@pytest.mark.parametrize("one", TABLE, ids=lambda one: one.name)
def test_an_entry_fits_the_code(one):
    assert applied([one], ROOT)
    assert one.tests
    for node in shlex.split(one.tests):
        file, _, test = node.partition("::")
        assert f"def {test.split('[')[0]}" in (ROOT / file).read_text(encoding="utf-8")


def test_the_table_is_long_and_names_are_its_own():
    assert len(TABLE) >= 60
    assert sum(one.unnoticed for one in TABLE) >= 30
    assert len({one.name for one in TABLE}) == len(TABLE)


def test_an_entry_that_no_longer_fits_fails(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\ny = 1\n")
    for old, new, times in (("z", "y", 0), ("1", "2", 2), ("x = 1", "x = 1", 1)):
        with pytest.raises(ValueError, match=f"its text stands {times} times in a.py"):
            applied([Mutant("wrong", "a.py", old, new, "")], tmp_path)


def test_mutants_are_applied_together_and_the_first_of_two_that_overlap(tmp_path):
    (tmp_path / "a.py").write_text("x = f(1, 2)\n")
    pair = [Mutant("one", "a.py", "f(1, 2)", "g(1, 2)", ""), Mutant("two", "a.py", "x = f", "y = f", "")]
    assert applied(pair, tmp_path) == {tmp_path / "a.py": "x = g(1, 2)\n"}
    pair[1] = Mutant("two", "a.py", "x =", "y =", "")
    assert applied(pair, tmp_path) == {tmp_path / "a.py": "y = g(1, 2)\n"}


@pytest.mark.parametrize(
    "new, found",
    [
        ("return 2", True),
        ("return 1 + 0", False),
        # A tree that cannot be tested has not been tested.
        ("return (", False),
    ],
)
def test_a_mutant_is_noticed_by_a_test_that_fails(tmp_path, new, found):
    (tmp_path / "src").mkdir()
    code = tmp_path / "src" / "answer.py"
    code.write_text("def answer():\n    return 1\n")
    (tmp_path / "test_it.py").write_text("from answer import answer\n\n\ndef test_it():\n    assert answer() == 1\n")
    assert noticed([Mutant("other", "src/answer.py", "return 1", new, "")], tmp_path, ["test_it.py"]) is found
    assert code.read_text() == "def answer():\n    return 1\n"


def test_a_sample_changes_with_the_commit_alone(monkeypatch):
    samples = []
    for commit in ("a", "a", "b"):
        monkeypatch.setattr(mutants, "commit", lambda name=commit: name)
        samples.append([one.name for one in selected(TABLE, 10, "")])
    assert samples[0] == samples[1] != samples[2]
    assert [len(set(sample)) for sample in samples] == [10, 10, 10]
    assert all("guidance" in one.name + one.file for one in selected(TABLE, None, "guidance"))


def test_the_copy_is_of_the_tree_and_nothing_else(tmp_path):
    mutants.copy_tree(tmp_path)
    assert (tmp_path / "src" / "nanogen" / "train.py").read_bytes() == (ROOT / "src/nanogen/train.py").read_bytes()
    assert (tmp_path / "tests" / "mutants" / "table.yaml").is_file()
    assert not (tmp_path / ".git").exists()
    assert Path(mutants.__file__).parents[2] == ROOT
