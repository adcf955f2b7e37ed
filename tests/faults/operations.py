"""The file operations of a process below one folder: listed, and one of them made the last, or the first to fail.

A command runs in a process that was forked with everything imported, so a run costs what its work costs. Killing is
`os._exit` before an operation, or in the middle of a write: no handler, no flush, as with SIGKILL. Full is a device
without space from that operation on: whatever needs some fails, after half of a write.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

KILLED = 137
GROWING = {"open", "write", "fsync", "mkdir", "rename", "exchange"}
# Written by code that is no Python, and therefore taken as one operation each: (module, function, place of the path).
FOREIGN = (("safetensors.torch", "serialize_file", 1),)
PRELOAD = ["nanogen.cli", "nanogen.train", "nanogen.prepare", "nanogen.sample", "nanogen.report", "nanogen.bench"]
PRELOAD += ["diffusionbench.api", "diffusionbench.views.site.build", "nanogen.sources", "torch.distributed.checkpoint"]
PRELOAD += ["jinja2", "torch._dynamo", "torch.distributed.checkpoint._fsspec_filesystem", "sentencepiece"]
PRELOAD += ["transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto"]
PRELOAD += ["transformers.models.bert.modeling_bert", "nanogen.data.caption_text", "diffusionbench.metrics.kid"]


@dataclass(frozen=True)
class Operation:
    """What is done ("open" for writing, "write", "fsync", "rename", "exchange", "unlink", "mkdir", "rmdir"), to which
    path, for "rename" and "exchange" the other one, and in which thread; paths are below the folder."""

    kind: str
    path: str
    other: str = ""
    thread: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.kind, self.path, self.other and f"-> {self.other}")))


class Watch:
    """Lists operations as they come, and strikes at number `at`."""

    def __init__(self, folder: Path, at: int | None, how: str) -> None:
        self.folder, self.at, self.how = str(folder.resolve()), at, how
        self.operations: list[Operation] = []

    def inside(self, path: str) -> bool:
        return f"{path}{os.sep}".startswith(self.folder + os.sep)

    def __call__(self, kind: str, path: str, other: str = "", half: Callable[[], object] = lambda: None) -> None:
        """Note an operation; `half` does the half of it that is done when it is struck."""
        below = [one and os.path.relpath(one, self.folder) for one in (path, other)]
        self.operations.append(Operation(kind, *below, threading.current_thread().name))
        number = len(self.operations) - 1
        if self.at is None or number < self.at:
            return
        if self.how == "kill":
            half()
            os._exit(KILLED)
        if kind in GROWING:
            half()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def install(self) -> None:
        """Put wrappers in the place of every function through which a file can change."""
        for name, kind in (("replace", "rename"), ("rename", "rename"), ("unlink", "unlink"), ("remove", "unlink")):
            self._wrap(name, kind)
        for name in ("mkdir", "rmdir", "link", "symlink", "truncate"):
            self._wrap(name, name)
        self._wrap_handles()
        self._wrap_open()
        for module, name, place in FOREIGN:
            self._wrap_foreign(import_module(module), name, place)
        self._wrap_exchange(import_module("diffusionbench.writing"))

    def _wrap(self, name: str, kind: str) -> None:
        real = getattr(os, name)

        def wrapped(path: Any, *more: Any, **options: Any) -> Any:
            place = _absolute(path, options.get("dir_fd"))
            if self.inside(place):
                self(kind, place, _absolute(more[0]) if kind == "rename" else "")
            return real(path, *more, **options)

        setattr(os, name, wrapped)

    def _wrap_handles(self) -> None:
        fsync, write, open_ = os.fsync, os.write, os.open

        def synced(handle: int) -> None:
            if self.inside(_behind(handle)):
                self("fsync", _behind(handle))
            fsync(handle)

        def written(handle: int, data: Any) -> int:
            if self.inside(_behind(handle)):
                self("write", _behind(handle), half=lambda: write(handle, data[: len(data) // 2]))
            return write(handle, data)

        def opened(path: Any, flags: int, *more: Any, **options: Any) -> int:
            place = _absolute(path, options.get("dir_fd"))
            if flags & (os.O_CREAT | os.O_TRUNC) and self.inside(place):
                self("open", place)
            return open_(path, flags, *more, **options)

        os.fsync, os.write, os.open = synced, written, opened

    def _wrap_open(self) -> None:
        real, watch = io.open, self

        class Watched(io.FileIO):
            def write(self, data: Any) -> int:
                place, real_write = _behind(self.fileno()), super().write
                watch("write", place, half=lambda: real_write(bytes(data)[: len(data) // 2]))
                return real_write(data)

        def opened(
            file: Any,
            mode: str = "r",
            buffering: int = -1,
            encoding: str | None = None,
            errors: str | None = None,
            newline: str | None = None,
            closefd: bool = True,
            opener: Any = None,
        ) -> Any:
            place = _behind(file) if isinstance(file, int) else _absolute(file)
            if not set(mode) & set("wax+") or not watch.inside(place):
                return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
            watch("open", place)
            raw = Watched(file, mode.replace("b", "").replace("t", ""), closefd, opener)
            if buffering == 0:
                return raw
            binary = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return binary if "b" in mode else io.TextIOWrapper(binary, encoding, errors, newline, buffering == 1)

        io.open = builtins.open = opened

    def _wrap_foreign(self, module: Any, name: str, place: int) -> None:
        real = getattr(module, name)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            path = _absolute(arguments[place])

            def half() -> None:
                real(*arguments, **options)
                os.truncate(path, os.path.getsize(path) // 2)

            if self.inside(path):
                self("write", path, half=half)
            return real(*arguments, **options)

        setattr(module, name, wrapped)

    def _wrap_exchange(self, writing: Any) -> None:
        real = writing._exchange

        def wrapped(one: Path, other: Path) -> None:
            self("exchange", _absolute(one), _absolute(other))
            real(one, other)

        writing._exchange = wrapped


def _behind(handle: int) -> str:
    return os.readlink(f"/proc/self/fd/{handle}")


def _absolute(path: Any, folder: int | None = None) -> str:
    place = os.fsdecode(path)
    return os.path.abspath(place if folder is None else os.path.join(_behind(folder), place))


def _child(program: str, arguments: Sequence[str], folder: Path, said: Path, at: int | None, how: str) -> None:
    os.chdir(folder)
    for stream in (1, 2):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.environ["DIFFUSIONBENCH_CACHE"] = str(folder / "cache")
    # Who commits or edits while the campaign runs shall not change what a run says about its code.
    os.environ["GIT_DIR"] = os.devnull
    main = import_module(f"{program}.cli").main
    judged = _count_judged()
    watch = Watch(folder, at, how)
    watch.install()
    sys.argv = [program, *arguments]
    code: Any = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    content = {"operations": [asdict(one) for one in watch.operations], "judged": sum(judged)}
    said.with_suffix(".json").write_text(json.dumps(content))
    os._exit(code)


def _count_judged() -> list[int]:
    """Return a list that gets the size of every batch that the digits judge sees."""
    judge = import_module("diffusionbench.judges.digits").DigitsJudge
    real, seen = judge.__call__, list[int]()

    def counted(self: Any, images: Any, *more: Any) -> Any:
        seen.append(len(images))
        return real(self, images, *more)

    judge.__call__ = counted
    return seen


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code, what it said, and unless it was killed its operations and the images judged."""

    code: int
    said: str
    operations: tuple[Operation, ...] = ()
    judged: int = 0


def execute(
    program: str, arguments: Sequence[str], folder: Path, said: Path, at: int | None = None, how: str = "kill"
) -> Outcome:
    """Run a command of ours in a folder.

    Args:
        program: package whose `cli.main` runs it: "nanogen" or "diffusionbench".
        said: file outside the folder for what it prints.
        at: number of the operation to strike; None: none.
        how: "kill" or "full".
    """
    listed = said.with_suffix(".json")
    said.unlink(missing_ok=True)
    listed.unlink(missing_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=_child, args=(program, arguments, folder, said, at, how))
    process.start()
    process.join(240)
    if process.exitcode is None:
        process.kill()
        process.join()
    code, told = process.exitcode or 0, said.read_text(errors="replace")
    if not listed.exists():
        return Outcome(code, told)
    found = json.loads(listed.read_text())
    return Outcome(code, told, tuple(Operation(**one) for one in found["operations"]), found["judged"])
