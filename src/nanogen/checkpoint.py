"""Checkpoints: whole or absent, verified before use, the last N kept; and the weights file that is enough to sample.

A checkpoint is a folder such as `step-00000600` with the sharded training state, `ema.safetensors` (averaged
weights, config in its header) and `manifest.json` (size and SHA-256 of every file, hashed while written). The state is
copied first, and the copy written in a thread under a temporary name, brought to the disk and renamed. Only folders
with exactly such a name are read, counted or removed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from diffusionbench.errors import CheckpointError
from diffusionbench.limits import read_small
from diffusionbench.schema import Strict, file_digest
from diffusionbench.shown import few
from diffusionbench.writing import strangers, sync, write_atomic
from nanogen import parallel
from nanogen.log import say
from nanogen.settings import due
from nanogen.state import TrainState, stored_name

MANIFEST, WEIGHTS, STATE = "manifest.json", "ema.safetensors", "state"
METADATA = f"{STATE}/.metadata"
_SHARD = re.compile(f"{STATE}/__[0-9]+_[0-9]+\\.distcp")
_FINISHED, _UNFINISHED = re.compile(r"step-[0-9]{8,18}"), re.compile(r"\.step-[0-9]{8,18}\.tmp")


class Entry(Strict):
    """One file of a checkpoint."""

    bytes: int
    sha256: str


class Manifest(Strict):
    """The files of a checkpoint but this one, by name in the folder."""

    step: int
    files: dict[str, Entry]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk that passed its manifest."""

    path: Path
    step: int

    @property
    def weights(self) -> Path:
        return self.path / WEIGHTS


class Saver:
    """Writes checkpoints in a thread, one at a time, while training goes on; every process has one.

    Args:
        folder: of the run's checkpoints.
        header: strings for the header of each weights file (config, commit, ...); step and skipped updates join them.
        keep: newest checkpoints to keep; older ones are removed once the new one would outlast a power cut.
        keep_every: steps whose multiples are kept too; None: of none.
        begun: step of the newest checkpoint, whether or not it is on the disk yet: at first the one that training
            continues from.
    """

    def __init__(
        self, folder: Path, header: Mapping[str, str], keep: int, keep_every: int | None = None, begun: int = 0
    ) -> None:
        self.folder, self.header, self.keep, self.keep_every = folder, header, keep, keep_every
        self.begun = self._finished = begun
        self._writing: Future[None] | None = None
        # What is written is copied here first.
        self._staging, self._average = parallel.Staging(), dict[str, Tensor]()

    def save(self, state: TrainState) -> None:
        """Copy a training state, and begin to write it once the one before is written; every process calls it.

        Raises:
            CheckpointError: see `wait`.
            Told: if that happened to another process.
        """
        self.wait()
        step, main = state.step, parallel.is_main()
        temporary = self.folder / f".step-{step:08d}.tmp"
        header = {**self.header, "step": str(step), "skipped": f"{state.updater.skipped.item():.0f}"}
        with parallel.agreed(), _written(step, self.folder):
            if main:
                self.folder.mkdir(exist_ok=True)
                sweep(self.folder)
                temporary.mkdir()
        tree = self._staging(_tree(state))
        for name, tensor in state.averaged().items():
            whole = parallel.full(tensor)
            if main:
                self._average.setdefault(name, torch.empty(whole.shape, dtype=whole.dtype)).copy_(whole)
        self.begun, self._writing = step, Future()
        # Not joined where the program ends at once.
        threading.Thread(target=self._write, args=(self._writing, temporary, tree, header), daemon=True).start()

    def _write(
        self,
        writing: Future[None],
        temporary: Path,
        tree: dict[str, Any],
        header: dict[str, str],
    ) -> None:
        step, main = int(header["step"]), parallel.is_main()
        try:
            with _written(step, self.folder):
                files = parallel.save(tree, temporary / STATE)
                if main:
                    entries = {f"{STATE}/{name}": Entry(bytes=size, sha256=sha) for name, (size, sha) in files.items()}
                    data = safetensors.torch.save(self._average, header)
                    (temporary / WEIGHTS).write_bytes(data)
                    sync(temporary / WEIGHTS)
                    entries[WEIGHTS] = Entry(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
                    _finish(temporary, step, entries)
                    prune(self.folder, step, self.keep, self.keep_every)
            writing.set_result(None)
        except BaseException as error:
            if main:
                shutil.rmtree(temporary, ignore_errors=True)
            writing.set_exception(error)

    def check(self) -> None:
        """Raise what went wrong in the thread of this process, if something has; waits for nothing."""
        if self._writing is not None and self._writing.done():
            self._writing.result()

    def wait(self) -> None:
        """Wait until the checkpoint that was begun is on the disk; every process calls it.

        Raises:
            CheckpointError: if the disk is full or not writable; older checkpoints are untouched.
            Told: if that happened to another process.
        """
        if self._writing is not None:
            with parallel.agreed():
                self.finished()
            self._writing = None

    def finished(self) -> int:
        """Return the step of the newest checkpoint that is on the disk, 0 if there is none, once nothing is written.

        Raises:
            CheckpointError: see `wait`.
        """
        if self._writing is not None:
            self._writing.result()
            self._finished = self.begun
        return self._finished


@contextmanager
def _written(step: int, folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"checkpoint of step {step} could not be written to {folder}: {error}. "
            "Older checkpoints are untouched; make room and start the same command again."
        ) from None


def _tree(state: TrainState) -> dict[str, Any]:
    """Return all that a checkpoint holds of a training, for `parallel.save` and `parallel.load`."""
    tree: dict[str, Any] = {
        "model": state.module.tensors(),
        "optimizer": _optimizer(state),
    }
    if state.critic is not None:
        tree["critic"] = {"model": state.critic.module.tensors()}
        # Asked of optimizers that have none, torch makes a state by an update with rate 0, and counts it.
        if state.critic.step:
            tree["critic"]["optimizer"] = _optimizer(state.critic)
    return tree


def _optimizer(state: TrainState) -> dict[str, Any]:
    return _renamed(parallel.optimizer_state(state.module, state.updater.optimizers), stored_name)


def _load_optimizer(state: TrainState, optimizer: dict[str, Any]) -> None:
    names = {stored_name(name): name for name, _ in state.module.named_parameters()}
    parallel.set_optimizer_state(state.module, state.updater.optimizers, _renamed(optimizer, names.__getitem__))


def _renamed(optimizer: dict[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    groups = [{**group, "params": [rename(name) for name in group["params"]]} for group in optimizer["param_groups"]]
    return {"state": {rename(name): value for name, value in optimizer["state"].items()}, "param_groups": groups}


def _finish(temporary: Path, step: int, files: dict[str, Entry]) -> None:
    """Make what is written durable, and then a checkpoint."""
    sync(temporary / STATE)
    write_atomic(temporary / MANIFEST, Manifest(step=step, files=files).model_dump_json(indent=1))
    sync(temporary)
    final = temporary.with_name(_name(step))
    if others := _others(final):
        raise OSError(f"{final} holds {others[0]}, which is no file of a checkpoint; move it away")
    # What has this name already was found damaged, or training would not have come back to this step.
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    sync(final.parent)


def prune(folder: Path, step: int, keep: int, keep_every: int | None = None) -> None:
    """Remove checkpoints older than that of `step`, which is intact, so that `keep` are left.

    Multiples of `keep_every` stay beside them, and those with files of somebody else in them. Newer ones were found
    damaged and go when their step comes again. OSError if that is not possible.
    """
    older = [
        number
        for number in steps(folder)
        if number < step and not due(number, keep_every) and not (folder / _name(number)).is_symlink()
    ]
    surplus = [number for number in older[: max(0, len(older) + 1 - keep)] if not _others(folder / _name(number))]
    if surplus:
        # The process that gave the intact one its name may have died before that was on the disk.
        sync(folder)
    for number in surplus:
        # Under another name first: half of it shall not pass for a damaged checkpoint.
        doomed = folder / f".step-{number:08d}.tmp"
        (folder / _name(number)).rename(doomed)
        shutil.rmtree(doomed)


def _others(path: Path) -> list[str]:
    """Return the files in the folder of a checkpoint that belong to no checkpoint."""
    ours = {MANIFEST, WEIGHTS, METADATA}
    return [name for name in strangers(path, ours) if not _SHARD.fullmatch(name)]


def sweep(folder: Path) -> None:
    """Remove what a killed process left unfinished; OSError if that is not possible."""
    for path in folder.glob(".step-*.tmp"):
        if _UNFINISHED.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def steps(folder: Path) -> list[int]:
    """Return the steps of the folders with exactly a checkpoint's name, ascending; others, as copies, are not ours."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CheckpointError(f"checkpoints {folder} cannot be read: {error.strerror}. Correct that.") from None
    return sorted(int(name[5:]) for name in names if _FINISHED.fullmatch(name) and name == _name(int(name[5:])))


def _name(step: int) -> str:
    return f"step-{step:08d}"


def newest(folder: Path, weights_only: bool = False) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest intact checkpoint, and a sentence for each newer one that is damaged.

    Args:
        weights_only: whether the weights file alone must be intact, which is enough to sample.
    """
    damaged: list[str] = []
    for step in reversed(steps(folder)):
        path = folder / _name(step)
        problem = _problem(path, step, weights_only)
        if problem is None:
            return Checkpoint(path, step), damaged
        damaged.append(f"checkpoint {path} is damaged ({problem})")
    return None, damaged


def at(folder: Path, step: int) -> Checkpoint:
    """Return the checkpoint of a step; CheckpointError if it is not kept, or its weights file is damaged."""
    kept = steps(folder)
    if step not in kept:
        raise CheckpointError(
            f"{folder} keeps no checkpoint of step {step}; it keeps {few(kept) or 'none'}. Name one of them, or train "
            "again with checkpoint.keep large enough."
        )
    path = folder / _name(step)
    if problem := _problem(path, step, weights_only=True):
        raise CheckpointError(f"checkpoint {path} is damaged ({problem}). Name another step with --step.")
    return Checkpoint(path, step)


def _problem(path: Path, step: int, weights_only: bool = False) -> str | None:
    """Return why a checkpoint cannot be used, or None."""
    try:
        manifest = Manifest.model_validate_json(read_small(path / MANIFEST))
    except (OSError, ValidationError):
        return f"{MANIFEST} is missing or unreadable"
    if manifest.step != step:
        return f"{MANIFEST} is of step {manifest.step}"
    if not {WEIGHTS, METADATA} <= manifest.files.keys():
        return f"{MANIFEST} does not list {WEIGHTS} and {METADATA}"
    for name, entry in manifest.files.items():
        if weights_only and name != WEIGHTS:
            continue
        file = path / name
        if name.startswith("/") or ".." in name.split("/") or not name.isprintable():
            return f"{MANIFEST} lists {name!r}, which is no file of a checkpoint"
        try:
            size = file.stat().st_size
            if size != entry.bytes:
                return f"{name} has {size} of {entry.bytes} bytes"
            if file_digest(file) != entry.sha256:
                return f"{name} has other content than was written"
        except (OSError, ValueError) as error:
            return f"{name} is missing" if isinstance(error, FileNotFoundError) else f"{name} cannot be read"
    return None


def restore(checkpoint: Checkpoint, state: TrainState) -> None:
    """Load a training state in place; every process calls it. CheckpointError if it is another network's."""
    state.at(checkpoint.step)
    tree = _tree(state)
    try:
        parallel.load(tree, checkpoint.path / STATE)
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {checkpoint.path} cannot be loaded: {error}. Remove it to continue from the one before."
        ) from None
    average, _ = read_weights(checkpoint.weights)
    for name, tensor in state.averaged().items():
        parallel.assign(tensor, average[name])
    _load_optimizer(state, tree["optimizer"])
    if state.critic is not None and state.critic.step:
        _load_optimizer(state.critic, tree["critic"]["optimizer"])
    state.updater.skipped.fill_(float(read_header(checkpoint.weights).get("skipped", 0)))


def resume(folder: Path, state: TrainState) -> None:
    """Load the newest intact checkpoint of a folder, if it has one; newer ones that are damaged are named."""
    found, damaged = parallel.from_main(lambda: newest(folder))
    if parallel.is_main():
        for problem in damaged:
            say(f"{problem}; using {found.path.name if found else 'no checkpoint: starting over'}")
    if found is not None:
        with parallel.agreed():
            restore(found, state)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        if not path.is_file():
            raise OSError("no such file" if not path.exists() else "it is no regular file")
        with safe_open(path, "pt") as file:
            yield file
    except (OSError, RuntimeError, ValueError, LookupError, SafetensorError) as error:
        raise CheckpointError(f"weights {path} cannot be read: {error}.") from None


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the header of a weights file; CheckpointError if it is missing or not one of ours."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def read_header(path: Path) -> dict[str, str]:
    """Return the header of a weights file alone; errors as for `read_weights`."""
    with _opened(path) as file:
        return dict(file.metadata() or {})


def no_weights(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return which tensors cannot be weights, each with the reason."""
    kinds = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
    return [f"{name} holds {kinds[name]}" for name, tensor in tensors.items() if not tensor.is_floating_point()] or [
        f"{name} holds values that are not finite" for name, tensor in tensors.items() if not tensor.isfinite().all()
    ]


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Copy tensors into a network of the same architecture.

    Raises:
        CheckpointError: if names, shapes or kinds differ, or a value is not finite; the first are listed, all counted.
    """
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    problems = [f"missing {name} {list(wanted[name])}" for name in wanted if name not in found]
    problems += [f"unknown {name} {list(found[name])}" for name in found if name not in wanted]
    shared = [name for name in wanted if name in found]
    problems += [
        f"{name} is {list(found[name])}, needed {list(wanted[name])}" for name in shared if found[name] != wanted[name]
    ]
    if problems:
        raise CheckpointError(f"{origin} is of another architecture: {few(problems, '; ')}.")
    if problems := no_weights(tensors):
        raise CheckpointError(f"{origin} holds no weights: {few(problems, '; ')}. Use a file that nanogen wrote.")
    model.load_state_dict(dict(tensors))
