"""A folder is put in place in one step, and gives way only where everything in it is known to be ours."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from diffusionbench import writing
from diffusionbench.errors import RequestError
from diffusionbench.writing import check_gives_way, recover, strangers, whole_folder


@pytest.fixture(autouse=True)
def _new_process(monkeypatch):
    """Folders are swept once by a process: each test is one."""
    monkeypatch.setattr(writing, "_swept", set())


def make(out: Path, text: str) -> None:
    with whole_folder(out, lambda folder: None) as made:
        (made / "inside").mkdir()
        (made / "inside" / "page").write_text(text)


def make_and(out: Path, act, check=lambda folder: None) -> None:
    with whole_folder(out, check) as made:
        (made / "half").write_text("x")
        act(made)


def text(out: Path) -> str:
    return (out / "inside" / "page").read_text()


def unsupported(one, other):
    raise OSError(errno.EINVAL, "Invalid argument")


@pytest.mark.parametrize("exchange", [writing._exchange, unsupported])
def test_a_folder_takes_the_place_of_another(tmp_path, monkeypatch, exchange):
    monkeypatch.setattr(writing, "_exchange", exchange)
    out = tmp_path / "out"
    out.mkdir()
    for content in ("first", "second", "third"):
        make(out, content)
        assert text(out) == content
        assert list(tmp_path.iterdir()) == [out]
    (tmp_path / "link").symlink_to(out)
    make(tmp_path / "link", "fourth")
    assert text(out) == "fourth"
    assert (tmp_path / "link").is_symlink()


def test_everything_is_on_the_disk_before_it_is_in_place(tmp_path, monkeypatch):
    events = []
    fsync, rename = os.fsync, Path.rename
    monkeypatch.setattr(
        os, "fsync", lambda handle: events.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name) or fsync(handle)
    )
    monkeypatch.setattr(Path, "rename", lambda self, to: events.append(f"rename to {to.name}") or rename(self, to))
    make(tmp_path / "out", "x")
    assert sorted(events[:3])[1:] == ["inside", "page"]
    assert min(events[:3]).startswith(".diffusionbench-")
    assert events[3:] == ["rename to out", tmp_path.name]


def test_between_two_renames_the_old_folder_is_put_back(tmp_path, monkeypatch):
    """Where two names cannot change places in one step, and the process dies while neither is there."""
    monkeypatch.setattr(writing, "_exchange", unsupported)
    out = tmp_path / "out"
    make(out, "old")
    child = os.fork()
    if not child:
        real = Path.rename

        def last(self, to):
            real(self, to)
            os.kill(os.getpid(), signal.SIGKILL)

        Path.rename = last
        make(out, "new")
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert not out.exists()
    recover(out)
    assert text(out) == "old"
    make(out, "new")
    assert text(out) == "new"
    writing._swept.clear()
    writing.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [out]


def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path, monkeypatch):
    out = tmp_path / "out"
    make(out, "old")

    def refused(one, other):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(writing, "_exchange", refused)
    with pytest.raises(OSError, match="Permission denied"):
        make(out, "new")
    with pytest.raises(KeyboardInterrupt):
        make_and(out, lambda made: signal.raise_signal(signal.SIGINT))
    assert text(out) == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_what_came_while_the_new_folder_was_made_is_not_lost(tmp_path):
    out = tmp_path / "out"
    make(out, "old")

    def check(folder):
        if strangers(folder, ["inside/page"]):
            raise OSError("a stranger")

    with pytest.raises(OSError, match="a stranger"):
        make_and(out, lambda made: (out / "note").write_text("mine"), check)
    assert (out / "note").read_text() == "mine"
    assert text(out) == "old"


def test_a_file_gives_way_only_to_its_kind(tmp_path):
    path = tmp_path / "result"
    check_gives_way(path, "mark")
    for content in (b"", b"mark" + b"x" * 300_000, b"x" * 300_000 + b"mark"):
        path.write_bytes(content)
        check_gives_way(path, "mark")
    path.write_bytes(b"my novel")
    with pytest.raises(RequestError, match=r"result exists and is no earlier result of this kind, so it would be lost"):
        check_gives_way(path, "mark")


def test_files_and_links_that_are_not_listed_are_strangers(tmp_path):
    folder = tmp_path / "folder"
    (folder / "empty").mkdir(parents=True)
    (folder / "ours").write_text("x")
    (folder / "empty" / ".hidden").write_text("x")
    (folder / "link").symlink_to(tmp_path)
    assert strangers(folder, ["ours", "absent"]) == ["empty/.hidden", "link"]
    assert strangers(tmp_path / "nothing", []) == []


def test_a_file_that_cannot_be_read_does_not_give_way(tmp_path, monkeypatch):
    (tmp_path / "result.json").write_text("{}")

    def forbidden(*given):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(RequestError, match=r"result\.json cannot be written: Permission denied"):
        check_gives_way(tmp_path / "result.json", "mark")
