"""How both programs end: one sentence and an exit code, whatever the machine or the terminal lacks."""

from __future__ import annotations

import errno
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffusionbench.errors import DataError, RunError, Stopped, Told, run_program

SOURCE = Path(__file__).parents[2] / "src"


def ending(program, monkeypatch, capsys) -> tuple[object, str]:
    """Exit code and stderr of a program."""
    with pytest.raises(SystemExit) as caught:
        run_program(program, "interrupted")
    return caught.value.code, capsys.readouterr().err


def raising(error: BaseException):
    def program() -> None:
        raise error

    return program


@pytest.mark.parametrize(
    "error, code, words",
    [
        (DataError("no file"), 2, "DataError: no file"),
        (RunError("lost"), 1, "RunError: lost"),
        (Stopped("stopped by SIGTERM", 15), 143, "Stopped: stopped by SIGTERM"),
        (Told(2), 2, ""),
        (KeyboardInterrupt(), 130, "interrupted"),
        (SystemExit(3), 3, ""),
        (MemoryError(), 1, "memory does not suffice"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 1, "memory does not suffice"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 1, "memory does not"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 1, "memory does not suffice"),
        (RuntimeError("std::bad_alloc"), 1, "memory does not suffice"),
        (ImportError("libtorch.so: failed to map segment from shared object"), 1, "memory does not suffice"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), 1, "a loader process was killed"),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), 1, "a loader process was killed"),
        (RuntimeError("can't start new thread"), 1, "ulimit -u"),
        (RuntimeError("Could not determine home directory."), 1, "Set HOME"),
        (KeyError("getpwuid(): uid not found: 12345"), 1, "Set USER and HOME"),
        (OSError(errno.ENOSPC, "No space left on device", "a.json"), 1, "a.json cannot be written"),
        (OSError(errno.EROFS, "Read-only file system"), 1, "the output cannot be written"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "c"), 2, "UserError: c: File name too long. Give another"),
        (PermissionError(errno.EACCES, "Permission denied", "d.pth"), 2, "UserError: d.pth: Permission denied. Give"),
        (OSError(errno.EMFILE, "Too many open files", "b.png"), 1, "b.png cannot be written or read"),
    ],
)
def test_an_end_is_one_sentence_and_an_exit_code(error, code, words, monkeypatch, capsys):
    found, said = ending(raising(error), monkeypatch, capsys)
    assert found == code
    assert words in said
    assert len(said.splitlines()) == bool(words)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), KeyError("label"), OSError(errno.ENOENT, "gone")])
def test_a_fault_of_ours_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        run_program(raising(error), "interrupted")


def test_a_signal_while_torch_compiles_is_a_signal(monkeypatch, capsys):
    def compiler(graph, inputs):
        raise Stopped("stopped by SIGTERM", 15)

    assert ending(lambda: torch.compile(torch.sin, backend=compiler)(torch.ones(1)), monkeypatch, capsys) == (
        143,
        "Stopped: stopped by SIGTERM\n",
    )


def test_processes_that_meet_the_same_error_say_it_once_a_machine(monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert ending(raising(DataError("no file")), monkeypatch, capsys) == (2, "")
    alone = DataError("only here")
    alone.everywhere = False
    assert ending(raising(alone), monkeypatch, capsys) == (2, "DataError: only here\n")


class Refusing(io.StringIO):
    """A terminal or pipe that takes nothing."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def flush(self) -> None:
        raise self.error


def test_a_result_that_cannot_be_printed_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Refusing(OSError(errno.ENOSPC, "No space left on device")))
    code, said = ending(lambda: print("result"), monkeypatch, capsys)
    assert code == 1
    assert "the output cannot be written" in said


def test_a_reader_that_went_away_ends_a_program_in_silence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Refusing(BrokenPipeError(errno.EPIPE, "Broken pipe")))
    assert ending(lambda: print("result"), monkeypatch, capsys) == (1, "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_a_terminal_lacks_are_escaped(encoding, monkeypatch, capsys):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    assert ending(lambda: print("1 ± 2 – 三 \udce9"), monkeypatch, capsys) == (0, "")
    assert stream.buffer.getvalue().decode(encoding).endswith("\\u2013 \\u4e09 \\udce9\n")


@pytest.mark.parametrize(
    "line, code",
    [("nanogen ls >/dev/full", 1), ("diffusionbench ls >&- 2>&-", 0), ("set -o pipefail; nanogen ls | true", 1)],
)
def test_programs_end_well_where_their_output_goes_nowhere(line, code, tmp_path):
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE)}
    command = re.sub(r"(nanogen|diffusionbench)", rf"{sys.executable} -m \1", line)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == ("full" in line)
