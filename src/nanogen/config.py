"""One config format: YAML layers merged key by key, checked by frozen models, hashed; every value knows its line.

Precedence is base -> scale -> task -> method -> your file -> command line. Nothing here imports torch, and nothing
below the command line and `train.py` sees these models.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from diffusionbench import bounds
from diffusionbench.axes import AXES
from diffusionbench.errors import ConfigError
from diffusionbench.limits import read_small
from diffusionbench.metrics import METRICS
from diffusionbench.registry import Registry, nearest
from diffusionbench.schema import Strict, digest
from diffusionbench.shown import clipped, few
from nanogen.conditions import CONDITIONS
from nanogen.data import DATASETS
from nanogen.duration import Duration, Period, Point
from nanogen.latents import LATENTS
from nanogen.layer import Layer, Leaf, leaves, plain, read_yaml
from nanogen.losses import LOSSES
from nanogen.objectives import OBJECTIVES
from nanogen.samplers import SAMPLERS

SCALES = ("laptop", "single-gpu", "paper")
Auto = Literal["auto"]
Share = Annotated[float, Field(ge=0, lt=1)]
Shift = Annotated[float, Field(gt=0, le=bounds.FACTOR)]
Seed = Annotated[int, Field(ge=0, le=bounds.SEED)]
Images = Annotated[int, Field(ge=1, le=bounds.IMAGES)]
Depth = Annotated[int, Field(ge=1, le=bounds.DEPTH)]
Width = Annotated[int, Field(ge=1, le=bounds.WIDTH)]
Heads = Annotated[int, Field(ge=1, le=bounds.HEADS)]
Tokens = Annotated[int, Field(ge=1, le=bounds.TOKENS)]
Batch = Annotated[int, Field(ge=1, le=bounds.BATCH)]
GuidanceScale = Annotated[float, Field(ge=1, le=bounds.GUIDANCE)]
Time01 = Annotated[float, Field(ge=0, le=1)]


class Section(Strict):
    """One part of a config; infinity only where it means "off"."""

    model_config = ConfigDict(allow_inf_nan=False)


class Latent(Section):
    name: str
    memory: int = Field(ge=0, le=bounds.MEMORY)


class Model(Section):
    encoder_depth: Depth
    encoder_hidden_size: Width
    encoder_num_heads: Heads
    decoder_depth: Depth
    decoder_hidden_size: Width
    decoder_num_heads: Heads
    num_time_tokens: Tokens
    num_class_tokens: Tokens
    pixel_grid: int = Field(ge=2, le=bounds.SIDE)


class Condition(Section):
    kind: str
    num_classes: Annotated[int, Field(ge=1, le=bounds.CLASSES)] | Auto
    encoder: str | None
    max_tokens: Tokens
    cache: str | None
    drop_prob: float = Field(ge=0, le=1)


class Data(Section):
    name: str
    path: str | tuple[str, ...] | None
    weights: tuple[Annotated[float, Field(gt=0, le=bounds.DURATION)], ...] | None
    template: str | None
    corrupt: Literal["stop", "skip"]
    image_size: int = Field(ge=1, le=bounds.SIDE)
    workers: int = Field(ge=0, le=bounds.WORKERS)


class Time(Section):
    mu: float = Field(ge=-bounds.FACTOR, le=bounds.FACTOR)
    sigma: float = Field(gt=0, le=bounds.FACTOR)
    shift: Shift | Auto


class Optim(Section):
    lr: float = Field(gt=0, le=bounds.LARGEST)
    betas: tuple[Share, Share]
    eps: float = Field(gt=0, le=1)
    weight_decay: float = Field(ge=0, le=bounds.FACTOR)
    warmup: Point
    decay_start: Point
    decay_end: Point
    final_factor: float = Field(ge=0, le=1)


class Train(Section):
    duration: Duration
    batch_size: Batch
    accumulation: Batch
    grad_clip: float = Field(gt=0, allow_inf_nan=True)
    ema_decay: float = Field(ge=0, lt=1)
    ema_ramp: bool
    precision: Literal["auto", "bfloat16", "float32"]
    compile: bool
    nonfinite: Literal["stop", "skip"]
    checkpoint_every: Period
    keep: int = Field(ge=1, le=bounds.REPEATS)


class Sampler(Section):
    name: str
    num_steps: int = Field(ge=1, le=bounds.SOLVER_STEPS)
    shift: Shift | Auto

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in SAMPLERS:
            raise ValueError(f"unknown sampler '{name}'. {nearest(name, list(SAMPLERS))}")
        return name


class Guidance(Section):
    scale: GuidanceScale
    interval: tuple[Time01, Time01]

    @field_validator("interval")
    @classmethod
    def _ordered(cls, interval: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= interval[0] <= interval[1] <= 1:
            raise ValueError("must be two times 0 <= low <= high <= 1")
        return interval


class Sample(Section):
    every: Period
    num: Images


class Eval(Section):
    axis: str
    every: Period
    metrics: tuple[str, ...]
    reference: str | None
    num_samples: Images | Auto
    prompt_seed: str
    prompt_layout: str | None
    batch_size: Batch
    seed: Seed
    tuned_scale: GuidanceScale


class Log(Section):
    every: Period
    sinks: tuple[Literal["tensorboard", "trackio", "wandb"], ...]


class Config(Section):
    """A complete, checked config. `objective` and `losses` hold the settings that their plugins declare."""

    seed: Seed
    noise: Literal["blake2b-1"]
    latent: Latent
    model: Model
    condition: Condition
    data: Data
    objective: dict[str, Any]
    time: Time
    losses: dict[str, dict[str, Any]]
    optim: Optim
    train: Train
    sampler: Sampler
    guidance: Guidance
    sample: Sample
    eval: Eval
    log: Log

    @property
    def hash(self) -> str:
        """SHA-256 over every value."""
        return digest(self)


@dataclass(frozen=True)
class Composition:
    """A config with the origin of each value.

    Attributes:
        config: the checked values.
        origins: dotted key -> "file:line", "command line" or what counted it.
        choice: the task, method and scale it was composed for.
    """

    config: Config
    origins: dict[str, str]
    choice: dict[str, str]


def read_own(*parts: str) -> tuple[CommentedMap, str]:
    """Return a config file of the package, and the name that origins give it."""
    source = files("nanogen") / "configs"
    for part in parts:
        source = source / part
    return read_yaml(source.read_text(encoding="utf-8"), f"configs/{'/'.join(parts)}"), f"configs/{'/'.join(parts)}"


def task_names() -> list[str]:
    """Known tasks, sorted."""
    folder = files("nanogen") / "configs" / "task"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def method_names() -> list[str]:
    """Known methods in the order of the table."""
    return [str(name) for name in read_own("methods.yaml")[0]]


def _method_layer(name: str) -> Layer:
    table, file = read_own("methods.yaml")
    row = dict(table[name])
    base = row.pop("like", None)
    layer = Layer()
    if base is not None:
        if base not in table or "like" in table[base]:
            raise ConfigError(f"{file}: row '{name}' is like '{base}', which must be a row without 'like'.")
        layer |= _method_layer(base)
    origin = f"{file}:{table.lc.key(name)[0] + 1}"
    return Layer(layer | {key: Leaf(leaf.value, origin) for key, leaf in Layer.of(row, file).items()})


def _check_choice(kind: str, name: str, known: Sequence[str], origin: str) -> str:
    if name not in known:
        raise ConfigError(f"{origin}: unknown {kind} '{name}'. {nearest(name, list(known))}")
    return name


def compose(
    task: str | None = None,
    method: str | None = None,
    scale: str | None = None,
    file: Path | None = None,
    overrides: Iterable[str] = (),
) -> Composition:
    """Merge the layers and check the result.

    Args:
        task, method, scale: names; where None, `use:` of the file, then of the task, decides.
        file: your own YAML, merged after the method; may choose by `use: {task: ..., method: ..., scale: ...}`.
        overrides: "a.b=value", the value read as YAML.

    Raises:
        ConfigError: unknown names and keys (nearest name, file and line), wrong types, impossible combinations.
    """
    mine, mine_name = CommentedMap(), ""
    if file is not None:
        mine_name = str(file)
        try:
            mine = read_yaml(read_small(file).decode(), mine_name)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"config file {file}: {error}. Give the path of a YAML file.") from None
    chosen = {"task": task, "method": method, "scale": scale}
    wanted = mine.pop("use", {})
    if not isinstance(wanted, Mapping) or set(wanted) - set(chosen):
        raise ConfigError(f"{mine_name}: 'use' takes task, method and scale, found {plain(wanted)}.")
    origins = {kind: "command line" if chosen[kind] else mine_name for kind in chosen}
    choice = {kind: chosen[kind] or (str(wanted[kind]) if kind in wanted else None) for kind in chosen}
    if choice["task"] is None:
        raise ConfigError(f"no task given. Choose one with --task: {', '.join(task_names())}.")
    name = _check_choice("task", choice["task"], task_names(), origins["task"])
    tree, task_file = read_own("task", f"{name}.yaml")
    defaults = tree.pop("use")
    by_scale = tree.pop("scales", {})
    names = {"task": name}
    for kind, known in (("method", method_names()), ("scale", SCALES)):
        names[kind] = _check_choice(kind, choice[kind] or defaults[kind], known, origins[kind] or task_file)

    base_tree, base_file = read_own("base.yaml")
    base = Layer.of(base_tree, base_file)
    layers = [
        Layer.of(*read_own("scale", f"{names['scale']}.yaml")),
        Layer.of(tree, task_file),
        Layer.of(by_scale.get(names["scale"], {}), task_file),
        _method_layer(names["method"]),
        Layer.of(mine, mine_name),
        *(_command_line(override) for override in overrides),
    ]
    return Composition(*_check(base, layers), names)


def _command_line(override: str) -> Layer:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"command line: expected key=value, got '{override}'. Example: optim.lr=1e-3")
    value = read_yaml(f"value: {text}", f"command line: {key}").get("value")
    layer = Layer.of({key: value}, "command line")
    return layer


def reload(values: Mapping[str, Any], origin: str) -> Config:
    """Check a stored complete config again, such as the one in a run folder or a weights file.

    Raises:
        ConfigError: if it does not fit this version's models.
    """
    base = Layer.of(*read_own("base.yaml"))
    return _check(base, [Layer.of(values, origin)])[0]


def changed(config: Config, overrides: Iterable[str], allowed: Sequence[str], why: str) -> Config:
    """Return a config with some values replaced.

    Args:
        overrides: "a.b=value" as on the command line.
        allowed: sections that may change.
        why: clause for the message, such as "the run is trained".

    Raises:
        ConfigError: if a value outside `allowed` would change; key, stored and asked value are named.
    """
    stored = Layer.of(config.model_dump(mode="json"), "run")
    layers = [_command_line(override) for override in overrides]
    refused = [
        f"{key} is {stored[key].value if key in stored else 'absent'}, asked: {leaf.value}"
        for layer in layers
        for key, leaf in layer.items()
        if key.split(".")[0] not in allowed and (key not in stored or stored[key].value != leaf.value)
    ]
    if refused:
        raise ConfigError(f"{why}: {few(refused, '; ')}. Allowed here: {', '.join(f'{name}.*' for name in allowed)}.")
    return _check(stored, layers)[0]


def check_overrides(overrides: Iterable[str]) -> None:
    """Check keys and values of "a.b=value" by themselves; how they fit a stored config is the business of `changed`.

    Raises:
        ConfigError: for an unknown key, a wrong type or a value out of bounds.
    """
    layers = (_command_line(override) for override in overrides)
    # What plugins declare depends on the plugin that the stored config names.
    own = (Layer({key: leaf for key, leaf in layer.items() if not key.startswith(tuple(_OPEN))}) for layer in layers)
    _check(Layer.of(*read_own("base.yaml")), list(own))


def differences(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (value in a, value in b) where two configs differ; None where absent."""
    left, right = leaves(a.model_dump(mode="json")), leaves(b.model_dump(mode="json"))
    keys = dict.fromkeys([*left, *right])
    return {key: (left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)}


def to_yaml(config: Config) -> str:
    """Return the config as YAML that `compose(file=...)` reads back to the same values."""
    stream = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.dump(config.model_dump(mode="json"), stream)
    return stream.getvalue()


# Sections whose keys plugins declare, with the table that knows them.
_OPEN = {"objective.": OBJECTIVES, "losses.": LOSSES}


def _check(base: Layer, layers: Sequence[Layer]) -> tuple[Config, dict[str, str]]:
    merged = dict(base)
    for layer in layers:
        for key, leaf in layer.items():
            if "" in key.split(".") or (key not in base and not key.startswith(tuple(_OPEN))):
                _refuse_key(key, leaf, list(base))
            if key.startswith("losses."):
                # The empty table of base.yaml gives way to the first entry.
                merged.pop("losses", None)
            if key != "losses" or leaf.value:
                merged[key] = leaf
    tree: dict[str, Any] = {}
    for key, leaf in merged.items():
        *sections, last = key.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{leaf.origin}: '{key}': '{section}' is a value, which holds no others.")
        place[last] = leaf.value
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_describe(error.errors(), merged)) from None
    _check_kinds(config.model_dump(), merged)
    _check_plugins(config, merged)
    return config, {key: merged[key].origin for key in merged}


def _refuse_key(key: str, leaf: Leaf, known: list[str]) -> None:
    if any(name.startswith(f"{key}.") for name in known):
        inside = ", ".join(name for name in known if name.startswith(f"{key}."))
        raise ConfigError(
            f"{leaf.origin}: '{key}' is a section, found {clipped(repr(leaf.value), 200)}. Set one of: {inside}."
        )
    last = key.rpartition(".")[2]
    same = [f"'{name}'" for name in known if name.rpartition(".")[2] == last]
    hint = f"Did you mean {' or '.join(same)}?" if same else nearest(key, known)
    if hint.startswith("Known") and len(known) > 12:
        hint = "`nanogen show` prints all keys."
    raise ConfigError(f"{leaf.origin}: unknown key '{key}'. {hint}")


def _check_kinds(values: Mapping[str, Any], merged: Mapping[str, Leaf], prefix: str = "") -> None:
    """Refuse what the models would convert: words to numbers, `no` or 1 to a truth value, `true` to 1."""
    for key, value in leaves(values, prefix).items():
        leaf = merged.get(key)
        if leaf and any(isinstance(leaf.value, kind) != isinstance(value, kind) for kind in (bool, str)):
            kind = "true or false" if isinstance(value, bool) else "a number"
            raise ConfigError(f"{leaf.origin}: {key}: expected {kind}, found {clipped(repr(leaf.value), 200)}")


def _describe(entries: Sequence[Any], merged: Mapping[str, Leaf]) -> str:
    """One clause per key; the arms of a union are alternatives."""
    messages: dict[str, list[str]] = {}
    for entry in entries:
        parts = [str(part) for part in entry["loc"]]
        # A location may go deeper than our keys: into a list, or into one arm of a union.
        while parts and ".".join(parts) not in merged:
            parts.pop()
        message = entry["msg"][0].lower() + entry["msg"][1:].replace("valid tuple", "list")
        seen = messages.setdefault(".".join(parts or map(str, entry["loc"])), [])
        message = message.removeprefix("value error, ")
        if message not in seen:
            seen.append(message.removeprefix("input should be ") if seen else message)
    clauses = []
    for key, alternatives in messages.items():
        leaf, message = merged.get(key), " or ".join(alternatives)
        found = f", found {clipped(repr(leaf.value), 200)}" if leaf and f"'{leaf.value}'" not in message else ""
        clauses.append(f"{leaf.origin if leaf else 'config'}: {key}: {message}{found}")
    return few(clauses, "; ")


def _check_plugins(config: Config, merged: Mapping[str, Leaf]) -> None:
    """Let each named plugin check the settings it declares."""
    _plugin(OBJECTIVES, config.objective.get("name"), config.objective, "objective", merged)
    for name, options in config.losses.items():
        _plugin(LOSSES, name, options, f"losses.{name}", merged)
    names = [("latent.name", LATENTS, config.latent.name), ("data.name", DATASETS, config.data.name)]
    names += [("condition.kind", CONDITIONS, config.condition.kind), ("eval.axis", AXES, config.eval.axis)]
    names += [("eval.metrics", METRICS, metric) for metric in config.eval.metrics]
    for key, table, name in names:
        if name not in table:
            raise ConfigError(f"{merged[key].origin}: {key}: {_unknown(table, name)}")


def _unknown(table: Registry, name: Any) -> str:
    return f"unknown {table.kind} '{name}'. {nearest(str(name), list(table))}"


def _plugin(table: Registry, name: Any, values: Mapping[str, Any], prefix: str, merged: Mapping[str, Leaf]) -> None:
    origin = next(leaf.origin for key, leaf in merged.items() if key.startswith(prefix))
    if name not in table:
        raise ConfigError(f"{origin}: {_unknown(table, name)}")
    options: type[BaseModel] = table.load(name).Options
    for key in values:
        if key not in options.model_fields:
            # What is unknown may itself hold values.
            name = next(name for name in merged if f"{name}.".startswith(f"{prefix}.{key}."))
            _refuse_key(name, merged[name], [f"{prefix}.{field}" for field in options.model_fields])
    try:
        _check_kinds(options.model_validate(values).model_dump(), merged, f"{prefix}.")
    except ValidationError as error:
        entries = [{**entry, "loc": (*prefix.split("."), *entry["loc"])} for entry in error.errors()]
        raise ConfigError(_describe(entries, merged)) from None
