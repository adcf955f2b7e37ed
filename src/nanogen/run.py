"""The run folder: which config, code, data and machine a training belongs to, and whether a command may go on there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusionbench import provenance
from diffusionbench.errors import CheckpointError
from diffusionbench.schema import write_atomic
from nanogen.config import Config, differences, read_yaml, reload, to_yaml

# Values that change neither weights nor what is written about them: a run may continue under others. `data.corrupt`
# is one, as either value trains on the same samples or stops.
FREE = ("log.", "data.workers", "data.path", "data.corrupt", "train.keep")
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


def folder(name: str) -> Path:
    """A path where the name has a separator, else a folder of that name in outputs/."""
    return Path(name) if Path(name).name != name else Path("outputs") / name


def read(path: Path) -> Run:
    """An existing run.

    Raises:
        CheckpointError: if there is none.
        ConfigError: if its config cannot be read.
    """
    try:
        text = (path / CONFIG).read_text(encoding="utf-8")
        facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a run folder: {error}. Give the folder that `nanogen train` wrote, such as outputs/demo."
        ) from None
    return Run(path, reload(read_yaml(text, str(path / CONFIG)), str(path / CONFIG)), facts)


def check_same(path: Path, stored: Config, asked: Config, what: str) -> None:
    """Refuse another config than the stored one.

    Raises:
        CheckpointError: naming the keys that differ with both values.
    """
    found = {key: pair for key, pair in differences(stored, asked).items() if not key.startswith(FREE)}
    if found:
        listed = "; ".join(f"{key}: {old} there, {new} {what}" for key, (old, new) in found.items())
        raise CheckpointError(
            f"{path} belongs to another config: {listed}. Use the same values, or another run name (--run NAME)."
        )


def open_run(path: Path, config: Config, facts: dict[str, Any], bytes_needed: int) -> Run:
    """Make a run folder, or check that an existing one is this run's.

    Args:
        facts: what to write about the run; an existing run keeps its own precision, and must agree on the data.
        bytes_needed: disk space of one checkpoint.

    Raises:
        CheckpointError: if the folder is another run's, is not writable, or the disk is full.
    """
    if (path / CONFIG).exists():
        run = read(path)
        check_same(path, run.config, config, "asked")
        for key in ("data_digest", "condition_digest", "version"):
            if run.facts.get(key, "") != facts[key]:
                raise CheckpointError(
                    f"{path} was trained with {key.replace('_', ' ')} {run.facts.get(key, '')}, found {facts[key]}. "
                    "Restore it, or use another run name (--run NAME)."
                )
        return Run(path, config, run.facts)
    try:
        if path.is_dir() and any(path.iterdir()):
            raise CheckpointError(f"{path} exists and is not a run folder. Use another run name (--run NAME).")
        (path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path).free
        if free < bytes_needed:
            raise CheckpointError(
                f"run folder {path}: {free / 1e6:.0f} MB are free and one checkpoint takes "
                f"{bytes_needed / 1e6:.0f} MB. Make room or choose another disk (--run PATH)."
            )
        write_atomic(path / FACTS, json.dumps(facts, indent=2) + "\n")
        # Last: from here on the folder counts as a run.
        write_atomic(path / CONFIG, to_yaml(config))
    except OSError as error:
        raise CheckpointError(
            f"run folder {path} cannot be written: {error.strerror or error}. Choose another one (--run PATH)."
        ) from None
    return Run(path, config, facts)


def describe(
    config: Config,
    choice: dict[str, str],
    precision: str,
    data_digest: str,
    condition_digest: str,
    device: str,
    command: Sequence[str],
) -> dict[str, Any]:
    """The facts of a new run."""
    commit, dirty = provenance.commit()
    return {
        "version": 1,
        **choice,
        "config_hash": config.hash,
        "precision": precision,
        "data_digest": data_digest,
        "condition_digest": condition_digest,
        "commit": commit,
        "dirty": dirty,
        "packages": provenance.packages(),
        "hardware": provenance.hardware(device),
        "command": " ".join(command),
    }
