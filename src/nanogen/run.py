"""The run folder: which config, code, data and machine a training belongs to, and whether a command may go on there."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from diffusionbench import provenance
from diffusionbench.errors import CheckpointError, ConfigError, RunError
from diffusionbench.limits import parse_json, read_small
from diffusionbench.writing import free_bytes, make_folder, write_atomic
from nanogen import checkpoint, parallel
from nanogen.build import Components
from nanogen.config import ComposedConfig, Config, changed, differences, leaves, read_yaml, reload, to_yaml
from nanogen.data import Dataset
from nanogen.lock import LOCK, locked
from nanogen.log import say
from nanogen.precision import Precision
from nanogen.state import TrainState

# Values that change neither weights nor what is written about them: a run may continue under others. `data.corrupt`
# is one, as either value trains on the same samples or stops; `latent.weights` is, as the weights' hash is compared.
RESUMABLE_KEYS = (
    *("log.", "data.workers", "data.path", "data.cache", "data.corrupt", "latent.weights"),
    *("train.keep", "train.shard", "train.checkpointing", "eval.keep_images"),
)
# What a stopped writer leaves of the two files that are written first; older versions named it after the file.
_TEMPORARY = re.compile(r"\.(config\.yaml|run\.json|diffusionbench)[.-].*\.tmp")
CONFIG, FACTS, CHECKPOINTS, SAMPLES, EVALS = "config.yaml", "run.json", "checkpoints", "samples", "evals"


@dataclass(frozen=True)
class Run:
    """A run folder that belongs to a config.

    Attributes:
        path: the folder.
        config: its config.
        facts: choice of task, method and scale, precision, data digest, commit, packages, hardware, command.
    """

    path: Path
    config: Config
    facts: dict[str, Any]

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    def check_there(self, folder: os.stat_result | None = None) -> None:
        """Refuse to write where the run no longer is: files there would belong to nothing.

        Args:
            folder: what its folder must be; None: any that holds a run.

        Raises:
            RunError: if it was moved or deleted.
        """
        try:
            found = os.stat(self.path)
            there = (folder is None or os.path.samestat(found, folder)) and (self.path / CONFIG).exists()
        except OSError:
            there = False
        if not there:
            raise RunError(
                f"run folder {self.path} is gone: it was moved or deleted while it was used. Move it back and start "
                "the same command again; training continues from the newest checkpoint."
            )


def folder(name: str) -> Path:
    """Return a path where the name has a separator, else a folder of that name in outputs/."""
    return Path(name) if Path(name).name != name else Path("outputs") / name


def resumed(path: Path, overrides: Sequence[str]) -> ComposedConfig:
    """Return what an existing run was composed of, so that it continues; nothing else is started in its place.

    Args:
        overrides: of `RESUMABLE_KEYS`.

    Raises:
        CheckpointError: if there is no run, or it has no checkpoint yet.
        ConfigError: for another key.
    """
    run = read(path)
    if not checkpoint.steps(run.checkpoints):
        raise CheckpointError(f"{path} has no checkpoint to resume from. Start its `nanogen train` command again.")
    sections = sorted({key.split(".")[0] for key in RESUMABLE_KEYS})
    config = changed(run.config, overrides, sections, f"{path} is being trained")
    choice = {key: str(run.facts[key]) for key in ("task", "method", "scale")}
    return ComposedConfig(config, dict.fromkeys(leaves(config.model_dump()), str(path / CONFIG)), choice, ())


class DamagedError(CheckpointError):
    """A file that says which run a folder holds is empty or damaged."""


def read(path: Path) -> Run:
    """Return an existing run.

    Raises:
        CheckpointError: if there is none, or what is there is damaged.
        ConfigError: if its config is of another version.
    """
    try:
        return _read(path)
    except DamagedError as error:
        raise CheckpointError(
            f"{error} Its `nanogen train` command, started again, restores it from the newest checkpoint."
        ) from None


def _read(path: Path) -> Run:
    missing = [name for name in (CONFIG, FACTS) if not (path / name).exists()]
    if missing and not checkpoint.steps(path / CHECKPOINTS):
        raise CheckpointError(
            f"{path} is not a run folder: {missing[0]} is missing. Give the folder that `nanogen train` wrote, such as "
            "outputs/demo."
        )
    file = path / CONFIG
    with _intact(file):
        tree = read_yaml(read_small(file).decode(), file.name)
        if not isinstance(tree.get("log"), dict):
            raise ValueError("its end is missing" if tree else "it is empty")
    return Run(path, reload(tree, str(file)), _read_facts(path / FACTS))


def keep_threads(run: Run, threads: int | None) -> Run:
    """Return a run whose folder says with how many threads it computes; None leaves it as it is."""
    if threads in (None, run.facts.get("threads")):
        return run
    run = replace(run, facts={**run.facts, "threads": threads})
    write_atomic(run.path / FACTS, json.dumps(run.facts, indent=2) + "\n")
    return run


def _read_facts(file: Path) -> dict[str, Any]:
    with _intact(file):
        text = read_small(file)
        facts = parse_json(text) if text.strip() else None
        if facts is None:
            raise ValueError("it is empty")
        chosen = facts.get("precision") if isinstance(facts, dict) else None
        if chosen not in get_args(Precision) or "method" not in facts:
            raise ValueError("it names no precision or no method")
        if facts.get("threads") is not None and not (type(facts["threads"]) is int and facts["threads"] > 0):
            raise ValueError("its threads are no number above 0")
        return facts


@contextmanager
def _intact(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, ConfigError) as error:
        reason = " ".join(str(error.strerror if isinstance(error, OSError) else error).split())
        raise DamagedError(f"{file} is damaged: {reason[:200].rstrip('.')}.") from None


def _restored(path: Path, damage: DamagedError) -> Run:
    """The run as its newest checkpoint tells it; the files are written again.

    Raises:
        DamagedError: if no checkpoint tells it.
    """
    newest, _ = checkpoint.newest(path / CHECKPOINTS)
    header = {} if newest is None else checkpoint.read_header(newest.weights)
    if newest is None or "config" not in header:
        raise DamagedError(
            f"{damage} No checkpoint tells what it held: restore a copy, or use another run (--run NAME)."
        )
    config = reload(json.loads(header["config"]), str(newest.weights))
    # Checkpoints of older versions tell the config alone.
    run = Run(path, config, json.loads(header["run"]) if "run" in header else _read_facts(path / FACTS))
    _write(run)
    say(f"{damage} It is restored from {newest.path.name}.")
    return run


def _write(run: Run) -> None:
    write_atomic(run.path / FACTS, json.dumps(run.facts, indent=2) + "\n")
    # Last: from here on the folder counts as a run.
    write_atomic(run.path / CONFIG, to_yaml(run.config))


def ensure_same_config(path: Path, stored: Config, asked: Config, what: str) -> None:
    """Refuse another config than the stored one; CheckpointError naming the keys that differ with both values."""
    found = {key: pair for key, pair in differences(stored, asked).items() if not key.startswith(RESUMABLE_KEYS)}
    if found:
        listed = "; ".join(f"{key}: {old} there, {new} {what}" for key, (old, new) in found.items())
        raise CheckpointError(
            f"{path} belongs to another config: {listed}. Use the same values, or another run name (--run NAME)."
        )


def ensure_same_data(run: Run, facts: dict[str, Any]) -> None:
    """Refuse other data than a run was trained with, or the same in another order: a label would mean another class."""
    if run.facts.get("noise") != facts["noise"]:
        raise CheckpointError(
            f"{run.path} was trained with the noise of an earlier version: it can be sampled and scored, not continued."
            f" Finish it with the version that began it (commit {run.facts.get('commit')}), or use another run name "
            "(--run NAME)."
        )
    classes, found = run.facts.get("classes"), facts["classes"]
    if classes is not None and classes != found:
        differs = f"{len(classes)} classes, found {len(found or ())}"
        for place, (old, new) in enumerate(zip(classes, found or (), strict=False)):
            if old != new:
                differs = f"class {place} called {old!r}, found {new!r}"
                break
        raise CheckpointError(
            f"{run.path} was trained with {differs}. Restore the data, or use another run name (--run NAME)."
        )
    for key in ("data_digest", "condition_digest", "latent_digest", "losses_digest", "version"):
        # Runs of earlier versions say nothing of latent space and losses.
        known = run.facts.get(key, facts[key] if key in ("latent_digest", "losses_digest") else "")
        if known != facts[key]:
            reason = ""
            if key == "data_digest":
                reason = "Images, labels or captions were added, removed or changed since. "
            if key == "data_digest" and "classes" not in run.facts:
                reason += (
                    "Versions that kept no list of classes read folders in the order of the strings (10 before 2); if "
                    "nothing else has changed, the run keeps its classes and can be sampled and scored, not continued. "
                )
            raise CheckpointError(
                f"{run.path} was trained with {key.replace('_', ' ')} {known}, found {facts[key]}. "
                f"{reason}Restore it, or use another run name (--run NAME)."
            )


def open_run(path: Path, config: Config, facts: dict[str, Any], bytes_needed: float, held: ExitStack) -> Run:
    """Make a run folder, or check that an existing one is this config's; and hold it against other processes.

    Args:
        facts: what to write about a new run; an existing one keeps its own.
        bytes_needed: disk space of one checkpoint.
        held: closing it gives the folder free.

    Raises:
        CheckpointError: if the folder is another run's or in use, is not writable, or the disk is full.
    """
    try:
        if path.is_dir() and not _is_run(path) and not _is_unfinished(path):
            raise CheckpointError(f"{path} exists and is not a run folder. Use another run name (--run NAME).")
        if not _is_run(path):
            _check_room(path, bytes_needed)
        make_folder(path)
        with ExitStack() as until_open:
            until_open.enter_context(locked(path))
            known = _known(path, config) if _is_run(path) else None
            run = Run(path, config, known.facts if known else facts)
            make_folder(run.checkpoints)
            if known is None:
                _write(run)
            checkpoint.sweep(run.checkpoints)
            held.push(until_open.pop_all())
        return run
    except OSError as error:
        # What is not empty stays: it is more than this command made.
        for folder in (path / CHECKPOINTS, path):
            with suppress(OSError):
                folder.rmdir()
        raise CheckpointError(
            f"run folder {path} cannot be written: {error.strerror or error}. Choose another one (--run PATH)."
        ) from None


def _is_run(path: Path) -> bool:
    return (path / CONFIG).exists() or bool(checkpoint.steps(path / CHECKPOINTS))


def _is_unfinished(path: Path) -> bool:
    """Return whether a folder holds nothing but what a run leaves that was stopped while its folder was made."""
    for entry in path.iterdir():
        if entry.name == CHECKPOINTS and entry.is_dir() and not any(entry.iterdir()):
            continue
        if (
            entry.is_file()
            and entry.name == FACTS
            and ("config_hash" in entry.read_text(errors="replace") or not entry.stat().st_size)
        ):
            continue
        if entry.name != LOCK and not _TEMPORARY.fullmatch(entry.name):
            return False
    return True


def _check_room(path: Path, bytes_needed: float) -> None:
    if (free := free_bytes(path)) < bytes_needed:
        raise CheckpointError(
            f"run folder {path}: {free / 1e6:.0f} MB are free and one checkpoint takes {bytes_needed / 1e6:.0f} MB. "
            "Make room or choose another disk (--run PATH)."
        )


def _known(path: Path, config: Config) -> Run:
    try:
        run = _read(path)
    except DamagedError as error:
        run = _restored(path, error)
    ensure_same_config(path, run.config, config, "asked")
    return run


def describe(
    config: Config,
    choice: dict[str, str],
    data: Dataset,
    components: Components,
    state: TrainState,
    command: Sequence[str],
) -> dict[str, Any]:
    """Return the facts of a new run."""
    commit, dirty = provenance.commit()
    trained_by: dict[str, Any] = {**state.module.losses, "objective": components.objective}
    return {
        "version": 1,
        **choice,
        "config_hash": config.hash,
        "noise": config.noise,
        "precision": components.precision,
        "data_digest": data.digest,
        "num_images": len(data),
        "processes": parallel.world_size(),
        "text_tokens": components.conditioner.mean_tokens(data),
        "classes": None if data.classes is None else list(data.classes),
        "condition_digest": components.conditioner.digest,
        "latent_digest": components.latent.digest,
        "losses_digest": {name: str(part.digest) for name, part in trained_by.items() if part.digest},
        "commit": commit,
        "dirty": dirty,
        "packages": provenance.packages(),
        "hardware": provenance.hardware(components.device),
        "command": shlex.join(command),
    }
