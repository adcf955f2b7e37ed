"""A file is there whole or not at all, outlasts a power cut, and nothing of a killed writer stays."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
from pathlib import Path

import pytest

from diffusionbench import writing
from diffusionbench.errors import RequestError
from diffusionbench.writing import check_place, free_bytes, temporary_name, write_atomic, write_result


@pytest.fixture(autouse=True)
def _new_process(monkeypatch):
    """Folders are swept once by a process: each test is one."""
    monkeypatch.setattr(writing, "_swept", set())


def killed_while_writing(path) -> None:
    child = os.fork()
    if not child:
        write_atomic(path, lambda file: (file.write(b"half"), file.flush(), os.kill(os.getpid(), signal.SIGKILL)))
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_content_is_on_the_disk_before_the_name_and_the_name_before_the_call_returns(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def synced(handle):
        events.append(f"fsync {os.path.basename(os.readlink(f'/proc/self/fd/{handle}'))}")
        fsync(handle)

    def renamed(old, new):
        events.append(f"rename to {os.path.basename(new)}")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    write_atomic(tmp_path / "new" / "record.json", "x")
    made, content, name, folder = events
    assert made == f"fsync {tmp_path.name}"
    assert content.startswith("fsync .diffusionbench-")
    assert (name, folder) == ("rename to record.json", "fsync new")


def test_what_a_killed_writer_left_is_swept_and_nothing_else(tmp_path):
    path = tmp_path / "record.json"
    write_atomic(path, "old")
    killed_while_writing(path)
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    foreign = [tmp_path / name for name in (".record.json.ab12.tmp", ".diffusionbench-notes.tmp", "mine.tmp")]
    for file in foreign:
        file.write_text("keep me")
    folder = temporary_name(tmp_path)
    (folder / "inside").mkdir(parents=True)
    with writing._new_temporary(tmp_path) as file:
        # Another process: it sweeps for itself.
        writing._swept.clear()
        write_atomic(path, "new")
        assert {one.name for one in tmp_path.iterdir()} == {
            "record.json",
            os.path.basename(file.name),
            *(one.name for one in foreign),
        }
    assert path.read_text() == "new"


def test_where_there_are_no_locks_a_day_decides(tmp_path, monkeypatch):
    def unsupported(handle, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(writing.fcntl, "flock", unsupported)
    young, old = temporary_name(tmp_path), temporary_name(tmp_path)
    young.touch()
    old.touch()
    os.utime(old, (0, 0))
    write_atomic(tmp_path / "record.json", "x")
    assert {one.name for one in tmp_path.iterdir()} == {"record.json", young.name}


def test_a_temporary_swept_before_it_was_locked_is_made_anew(tmp_path, monkeypatch):
    real, swept = writing.lock, []

    def late(handle):
        if not swept:
            (name,) = tmp_path.iterdir()
            name.unlink()
            swept.append(name)
        return real(handle)

    monkeypatch.setattr(writing, "lock", late)
    write_atomic(tmp_path / "record.json", "x")
    assert [one.name for one in tmp_path.iterdir()] == ["record.json"]


def test_files_are_as_readable_as_any_other_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "record.json", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "record.json").stat().st_mode) == 0o640


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call):
    write_atomic(tmp_path / "record.json", "old")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(RequestError, match=r"record\.json cannot be written: No space left on device"):
        write_result(tmp_path / "record.json", "new")
    assert [one.read_text() for one in tmp_path.iterdir()] == ["old"]


def test_only_a_file_gives_way_to_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RequestError, match="it is no regular file"):
        write_result(tmp_path / "pipe", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RequestError, match="it is no regular file"):
        write_result(tmp_path / "folder", "x")
    (tmp_path / "note").write_text("mine")
    with pytest.raises(RequestError, match="Not a directory"):
        write_result(tmp_path / "note" / "record.json", "x")
    assert {one.name for one in tmp_path.iterdir()} == {"pipe", "folder", "note"}


def test_free_bytes_are_those_of_the_nearest_folder_that_is_there(tmp_path, monkeypatch):
    asked = []
    usage = type("Usage", (), {"free": 7})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or usage)
    monkeypatch.chdir(tmp_path)
    assert [free_bytes(tmp_path), free_bytes(tmp_path / "a" / "b"), free_bytes(Path("c/d"))] == [7, 7, 7]
    assert [Path(path).resolve() for path in asked] == [tmp_path.resolve()] * 3


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_below_a_link_to_nothing_is_no_place(tmp_path, kind):
    (tmp_path / "link").symlink_to(tmp_path / "unmounted")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("link", "loop"):
        with pytest.raises(RequestError, match=f"{name} is no folder"):
            check_place(tmp_path / name / "deep" / "out", kind)
    check_place(tmp_path / "new" / "deep" / "out", kind)
