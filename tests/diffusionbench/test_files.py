"""Listing folders and numbering classes: the one rule of every reader."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from diffusionbench.errors import DataError
from diffusionbench.files import LeftOut, list_files, natural_key, number_classes


def test_numbers_in_names_are_ordered_as_numbers() -> None:
    names = ["10", "2", "1", "a10/b", "a2/b", "a2/b9", "a2/b10", "x", "x1", "01"]
    assert sorted(names, key=natural_key) == ["01", "1", "2", "10", "a2/b", "a2/b9", "a2/b10", "a10/b", "x", "x1"]
    assert sorted(["9" * 5000, "1" + "0" * 5000], key=natural_key)[0] == "9" * 5000


def test_a_folder_is_listed_without_hidden_entries_links_upwards_and_pipes(tmp_path: Path) -> None:
    for name in ("10.png", "2.png", ".x.png", "more/a.png", ".git/b.png", "__MACOSX/c.png", "Thumbs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1234")
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "more" / "up").symlink_to("..")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "self").symlink_to("self")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "piped.png").symlink_to("pipe.png")
    left_out = LeftOut()
    listed = list_files(tmp_path, left_out)
    assert list(listed.items()) == [("2.png", 4), ("10.png", 4), ("gone.png", 0), ("more/a.png", 4), ("self", 0)]
    assert left_out.sentence("here") == (
        "here: left out 4 hidden entries (first: .git); 2 links to a folder above (first: again); "
        "2 entries that are neither file nor folder (first: pipe.png)."
    )


def test_a_folder_reached_twice_by_a_link_beside_it_is_listed_twice(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.png").touch()
    (tmp_path / "two").symlink_to("one")
    assert list(list_files(tmp_path, LeftOut())) == ["one/a.png", "two/a.png"]


def test_very_deep_folders_are_left_out_and_said(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    os.makedirs(tmp_path / "/".join("d" * 150))
    left_out = LeftOut()
    assert list(list_files(tmp_path, left_out)) == ["a.png"]
    assert "left out 1 folders more than 100 levels down (first: d/d/" in str(left_out.sentence("here"))


def test_classes_are_numbered_in_natural_order_or_by_the_references_names() -> None:
    assert number_classes(["10", "9", "2"]) == ({"2": 0, "9": 1, "10": 2}, [])
    assert number_classes(["02", "10"], known=["10", "9", "2"]) == ({"02": 2, "10": 0}, [])
    assert number_classes(["zero", "one"], known=["0", "1"]) == ({"one": 0, "zero": 1}, ["one", "zero"])
    with pytest.raises(DataError, match="01 and 1 name one class twice"):
        number_classes(["1", "01"])
