"""A study as a small YAML file (tasks, methods, seeds, scale, protocol, judges), and the cells that follow; no torch.

Our own files are those of `configs/studies`; `laptop.yaml` says what each key means.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from diffusionbench import bounds
from diffusionbench.axes import AXES
from diffusionbench.errors import ConfigError, DataError, UserError
from diffusionbench.judges import JUDGES
from diffusionbench.limits import read_small
from diffusionbench.metrics import METRICS
from diffusionbench.record import breaches
from diffusionbench.references import references_by_judge
from diffusionbench.registry import nearest
from diffusionbench.schema import Strict
from diffusionbench.shown import few
from diffusionbench.source import STATISTICS_KEYS, archive_keys
from nanogen.config import (
    SCALES,
    ComposedConfig,
    check_reference,
    compose,
    leaves,
    method_names,
    own_names,
    plain,
    read_own,
    read_yaml,
    task_names,
)
from nanogen.datasets import DATASETS
from nanogen.settings import GuidanceScale, Seed

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=80)]
Settings = dict[str, Any]


class StudyProtocol(Strict):
    """How guidance is chosen where classes are drawn: scales that are tried, the largest, and images of each."""

    evaluations: int = Field(8, ge=2, le=bounds.REPEATS)
    high: GuidanceScale = 10.0
    num: int | None = Field(None, ge=1, le=bounds.IMAGES)


class StudyFile(Strict):
    """The content of a study file; tasks and methods hold settings of their cells, `scales:` those of one scale."""

    name: Name
    title: str
    scale: Literal["laptop", "single-gpu", "paper"]
    seeds: tuple[Seed, ...] = Field((42,), min_length=1)
    tasks: dict[str, Settings] = Field(min_length=1)
    methods: dict[str, Settings] = Field(min_length=1)
    protocol: StudyProtocol = StudyProtocol()
    judges: tuple[str, ...] = ()
    price_per_hour: float | None = Field(None, ge=0, le=bounds.FACTOR)

    @field_validator("tasks", "methods", mode="before")
    @classmethod
    def _bare(cls, given: Any) -> Any:
        """Read a name without settings, and a list of such names."""
        if isinstance(given, Sequence) and not isinstance(given, str):
            return {str(name): {} for name in given}
        return (
            {name: {} if one is None else one for name, one in given.items()} if isinstance(given, Mapping) else given
        )


@dataclass(frozen=True)
class StudyCell:
    """One training of a study; `overrides` are what the study sets, as words of `nanogen train`."""

    name: str
    task: str
    method: str
    seed: int
    scale: str
    overrides: tuple[str, ...]
    composed: ComposedConfig

    @property
    def tunes(self) -> bool:
        """Whether its guidance is chosen: it draws classes, and a metric compares them with real images."""
        return _tunes(self.composed.config.eval.axis, self.composed.config.eval.metrics)

    @property
    def words(self) -> list[str]:
        """The words of `nanogen train` but its folder."""
        chosen = ["--task", self.task, "--method", self.method, "--scale", self.scale]
        return [*chosen, *self.overrides]


def read_study(name: str | None, overrides: Iterable[str] = (), scale: str | None = None) -> StudyFile:
    """Return a study.

    Args:
        name: of one that ships, or the path of a file; None: the first that ships for the scale.
        overrides: "TASK.key=value" for the cells of a task, or "key=value" of the file itself.
        scale: in place of the file's, which its name then says.

    Raises:
        ConfigError: if there is none, or it breaks the schema; every breach is named.
    """
    if scale is not None and scale not in SCALES:
        raise ConfigError(f"command line: unknown scale '{scale}'. {nearest(scale, list(SCALES))}")
    own = own_names("studies")
    if name is None:
        scales = {one: str(read_own("studies", f"{one}.yaml")[0].get("scale")) for one in own}
        name = next((one for one in own if scales[one] == (scale or "laptop")), None)
        if name is None:
            raise ConfigError(f"no study ships for scale '{scale}'. Give a file, or one of {', '.join(own)}.")
    if name in own:
        tree, origin = read_own("studies", f"{name}.yaml")
    else:
        try:
            tree, origin = read_yaml(read_small(Path(name)).decode(), name), name
        except (OSError, UnicodeDecodeError):
            raise ConfigError(f"study '{name}': it is no name and no YAML file. {nearest(name, own)}") from None
    values = plain(tree)
    for override in overrides:
        key, _, text = override.partition("=")
        value = plain(read_yaml(f"value: {text}", f"command line: {key}").get("value"))
        head, _, rest = key.partition(".")
        if rest and isinstance(values.get("tasks"), dict) and head in values["tasks"]:
            values["tasks"][head] = {**(values["tasks"][head] or {}), rest: value}
        elif head and not rest:
            values[head] = value
        else:
            raise ConfigError(
                f"command line: {override}: expected TASK.key=value with one of "
                f"{', '.join(values.get('tasks') or ['no task'])}, or key=value of the study."
            )
    try:
        study = StudyFile.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {few(breaches(error), '; ')}") from None
    if scale in (None, study.scale):
        return study
    return study.model_copy(update={"scale": scale, "name": f"{study.name}-{scale}"})


def cells_of(study: StudyFile, possible: bool = False) -> tuple[list[StudyCell], list[str]]:
    """Return the cells, method by method so that an interrupted study has whole methods, and what is wrong with others.

    Args:
        possible: leave out cells that make no sense in place of refusing the study.

    Raises:
        ConfigError: naming all problems at once: unknown names with the nearest known one, cells that make no sense.
    """
    asked = {
        "task": (study.tasks, task_names()),
        "method": (study.methods, method_names()),
        "judge": (study.judges, list(JUDGES)),
    }
    problems = [
        f"unknown {kind} '{name}'. {nearest(name, known)}"
        for kind, (names, known) in asked.items()
        for name in names
        if name not in known
    ]
    if problems:
        raise ConfigError(f"study '{study.name}': {few(problems, ' ', 40)}")
    cells: list[StudyCell] = []
    reasons: dict[str, list[str]] = {}
    for seed in study.seeds:
        for method in study.methods:
            for task in study.tasks:
                try:
                    cells.append(_cell(study, task, method, seed))
                except UserError as error:
                    reason = str(error).replace("command line: ", "")
                    reasons.setdefault(reason, []).append(f"{task}-{method}-{seed}")
    refused = [f"{few(names, first=3)}: {reason}" for reason, names in reasons.items()]
    if refused and not (possible and cells):
        more = f" --possible runs the other {len(cells)} cell(s)." if cells and not possible else ""
        raise ConfigError(f"study '{study.name}' has cells that make no sense. {few(refused, ' ', 40)}{more}")
    return cells, refused


def _cell(study: StudyFile, task: str, method: str, seed: int) -> StudyCell:
    settings: dict[str, Any] = {}
    for asked in (study.tasks[task], study.methods[method]):
        blocks = asked.get("scales") or {}
        settings |= leaves({key: value for key, value in asked.items() if key != "scales"})
        settings |= leaves(blocks.get(study.scale) or {})
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    found = compose(task, method, study.scale, overrides=overrides).config.eval
    metrics = _with_judges(found.axis, found.metrics, study.judges)
    if study.judges:
        overrides.append(f"eval.metrics={json.dumps(metrics)}")
    if found.references and _tunes(found.axis, metrics) and _are_images(found.references):
        # On the way it is scored by the half that scores it in the end, so that both can be compared.
        odd = [f"{reference.removesuffix(':odd')}:odd" for reference in found.references]
        overrides.append(f"eval.reference={json.dumps(odd)}")
    overrides.append(f"seed={seed}")
    composed = compose(task, method, study.scale, overrides=overrides)
    if not metrics:
        raise ConfigError(f"it names no metric. Set {task}.eval.metrics.")
    data = composed.config.data
    if DATASETS[data.name].takes_path and data.path is None:
        raise ConfigError(f"it needs images of yours. Set {task}.data.path=PATH.")
    check_reference(composed)
    needed = [key for key in metrics if METRICS[key].reference]
    if needed and not found.references:
        raise ConfigError(f"{needed[0]} compares with real images. Set {task}.eval.reference=PATH.")
    return StudyCell(f"{task}-{method}-{seed}", task, method, seed, study.scale, tuple(overrides), composed)


def _tunes(axis: str, metrics: Sequence[str]) -> bool:
    return AXES[axis].asks == "classes" and any(METRICS[key].reference for key in metrics)


def _are_images(references: Sequence[str]) -> bool:
    """Return whether references can be divided: a file of statistics cannot."""
    named = references_by_judge(references)
    files = [Path(name) for name in filter(None, (named["reference"], *named["references"].values()))]
    try:
        return not any({*archive_keys(file)} & {*STATISTICS_KEYS} for file in files if file.is_file())
    except DataError:
        return False


def _with_judges(axis: str, metrics: Sequence[str], judges: Sequence[str]) -> list[str]:
    """Return the metrics, then all that these judges bring for the axis and its prompt set."""
    sets = {METRICS[key].prompts for key in metrics} | {None}
    added = [
        key
        for key, row in METRICS.items()
        if row.load and {*row.judges} & {*judges} and row.axis == axis and row.prompts in sets
    ]
    return list(dict.fromkeys([*metrics, *added]))


def chosen(cells: Sequence[StudyCell], only: Sequence[str], part: tuple[int, int]) -> list[StudyCell]:
    """Return a part of the cells that match one of the patterns, such as "digits-*"; of all where there is none."""
    names = [cell.name for cell in cells]
    matched = {pattern: fnmatch.filter(names, pattern) for pattern in only}
    for pattern, found in matched.items():
        if not found:
            raise ConfigError(f"no cell matches '{pattern}'. {nearest(pattern, names)}")
    kept = [cell for cell in cells if not only or any(cell.name in found for found in matched.values())]
    index, total = part
    return kept[index - 1 :: total]
