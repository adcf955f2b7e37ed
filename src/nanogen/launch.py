"""Files that start a training on a cluster or in a cloud, from templates of the package."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from diffusionbench.errors import CheckpointError, ConfigError
from diffusionbench.limits import parse_json, read_small

TEMPLATES = {"slurm": "slurm.sh", "sky": "sky.yaml"}


@dataclass(frozen=True)
class Machines:
    """What a training shall run on: machines, GPUs of each, one process a GPU, and hours granted at once."""

    nodes: int = 1
    gpus: int = 8
    hours: int = 24


def script(kind: str, run: Path, arguments: Sequence[str], machines: Machines) -> str:
    """Return the file that starts, or continues, `nanogen train` with these arguments in a run folder.

    Args:
        kind: of `TEMPLATES`.

    Raises:
        ConfigError: if there is no such template, or the run's name cannot be a job's.
    """
    if kind not in TEMPLATES:
        raise ConfigError(f"no template '{kind}'. Known: {', '.join(TEMPLATES)}.")
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", run.name):
        raise ConfigError(f"run '{run.name}' cannot be the name of a job. Use letters, digits, '.', '-' and '_'.")
    # torchrun takes --run for its own options.
    command = shlex.join(["-m", "nanogen", "train", *arguments, "--run-dir", str(run)])
    values: Mapping[str, object] = {
        "NAME": run.name,
        "NODES": machines.nodes,
        "GPUS": machines.gpus,
        "HOURS": machines.hours,
        "COMMAND": f"python {command}" if kind == "slurm" else command,
    }
    text = (files("nanogen") / "templates" / TEMPLATES[kind]).read_text(encoding="utf-8")
    return re.sub("@([A-Z]+)@", lambda found: str(values[found[1]]), text)


def arguments_of(run: Path) -> list[str]:
    """Return the arguments of `nanogen train` that continue a run; CheckpointError if the folder holds none."""
    try:
        facts = parse_json(read_small(run / "run.json"))
        named = [word for kind in ("task", "method", "scale") for word in (f"--{kind}", str(facts[kind]))]
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"{run} holds no run. Name one, or say what to train there: --task, --method, --scale, key=value."
        ) from None
    return [*named, str(run / "config.yaml")]
