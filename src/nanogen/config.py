"""One config format: YAML layers merged key by key, checked by frozen models, hashed; every value knows its line.

Precedence is base -> scale -> task -> method -> your file -> command line. Nothing here imports torch, and nothing
below the command line and `train.py` sees these models.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent

from diffusionbench.axes import AXES
from diffusionbench.errors import ConfigError
from diffusionbench.limits import read_small
from diffusionbench.metrics import METRICS
from diffusionbench.references import REFERENCES, references_by_judge, split_name
from diffusionbench.registry import Table, nearest
from diffusionbench.shown import clipped, few
from nanogen.conditions import CONDITIONS
from nanogen.datasets import DATASETS
from nanogen.latents import LATENTS
from nanogen.losses import LOSSES
from nanogen.objectives import OBJECTIVES
from nanogen.optimizers import OPTIMIZERS
from nanogen.samplers import SAMPLERS
from nanogen.settings import Config

ModelT = TypeVar("ModelT", bound=BaseModel)

SCALES = ("laptop", "single-gpu", "paper")
# What `eval.reference` calls the images that are trained on.
TRAINING_IMAGES = "training"
# Largest YAML text; our own files have 200 values on 3 levels, in 10 kB.
MAX_CHARACTERS, MAX_VALUES, MAX_LEVELS = 1_000_000, 10_000, 20
# Sections whose keys are declared by the row that the config names.
_OPEN = {"objective.": OBJECTIVES, "losses.": LOSSES}


# ---- YAML text ----------------------------------------------------------------------------------------------------


def read_yaml(text: str, file: str) -> CommentedMap:
    """Parse YAML 1.2 text of key-value pairs.

    Raises:
        ConfigError: with file and line, if it is not that, or unfolds to more values or levels than a config has.
    """
    try:
        # Text that would take minutes or the whole stack to build is known by the stream of its events.
        if len(text) > MAX_CHARACTERS:
            raise _too_large(file)
        level = 0
        for count, event in enumerate(YAML(typ="rt").parse(text)):
            level += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if level > MAX_LEVELS or count > 2 * MAX_VALUES:
                raise _too_large(f"{file}:{event.start_mark.line + 1}")
        tree = YAML(typ="rt").load(text)
    except ConfigError:
        raise
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else file
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise ConfigError(f"{where}: not valid YAML: {clipped(reason, 200)}.") from None
    except Exception as error:
        # Constructors raise any error of Python: an integer of 5,000 digits, the 99th of a month, a map in itself.
        raise ConfigError(f"{file}: a value cannot be read ({clipped(str(error), 200)}). Write another one.") from None
    if tree is None:
        return CommentedMap()
    if not isinstance(tree, CommentedMap):
        found = "a list" if isinstance(tree, list) else f"the value {clipped(str(tree), 80)}"
        raise ConfigError(f"{file}: a config consists of 'key: value' lines, found {found}.")
    _check_unfolded(tree, file)
    return tree


def _too_large(file: str) -> ConfigError:
    return ConfigError(
        f"{file}: a config has at most {MAX_CHARACTERS:,} characters, {MAX_VALUES:,} values (aliases unfolded) and "
        f"{MAX_LEVELS} levels. Write a shorter one."
    )


def _check_unfolded(tree: CommentedMap, file: str) -> None:
    """Refuse aliases that unfold without end, or contain themselves."""
    waiting: list[tuple[Any, int]] = [(tree, 1)]
    count = 0
    while waiting:
        value, level = waiting.pop()
        count += 1
        if count > MAX_VALUES or level > MAX_LEVELS:
            raise _too_large(file)
        if isinstance(value, int) and value.bit_length() > 1024:
            # Python refuses to print it, so no later message could.
            raise ConfigError(f"{file}: found a whole number of {value.bit_length():,} bits. Write a smaller one.")
        children = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
        waiting += ((child, level + 1) for child in children)


def plain(value: Any) -> Any:
    """Return a value of a YAML tree as plain dictionaries, lists, numbers and strings."""
    if isinstance(value, Mapping):
        return {str(key): plain(child) for key, child in value.items()}
    if isinstance(value, list):
        return [plain(child) for child in value]
    return next((kind(value) for kind in (bool, int, float, str) if isinstance(value, kind)), value)


def to_yaml(config: Config) -> str:
    """Return the config as YAML that `compose(file=...)` reads back to the same values."""
    stream = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.dump(config.model_dump(mode="json"), stream)
    return stream.getvalue()


# ---- Layers: dotted keys, each with its value and origin ----------------------------------------------------------


def leaves(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value of a nested mapping; lists and empty mappings are values."""
    found: dict[str, Any] = {}
    for key, child in value.items():
        name = f"{prefix}{key}"
        found |= leaves(child, f"{name}.") if isinstance(child, Mapping) and child else {name: child}
    return found


@dataclass(frozen=True)
class Leaf:
    value: Any
    origin: str


class ConfigLayer(dict[str, Leaf]):
    """Dotted key -> value and origin ("file:line" or "command line")."""

    @classmethod
    def of(cls, tree: Mapping[str, Any], file: str) -> ConfigLayer:
        layer = cls()
        layer._add(tree, file, "")
        return layer

    def _add(self, tree: Mapping[str, Any], file: str, prefix: str) -> None:
        lines = tree.lc.data or {} if isinstance(tree, CommentedMap) else {}
        for key, value in tree.items():
            # A key that an alias merges in has no line here.
            name, origin = f"{prefix}{key}", f"{file}:{lines[key][0] + 1}" if key in lines else file
            if isinstance(value, Mapping) and value:
                self._add(value, file, f"{name}.")
                continue
            if name in self:
                raise ConfigError(f"{origin}: '{name}' is written twice; also {self[name].origin}. Keep one of them.")
            # A bare name is short for the section's `name`.
            short = name in ("latent", "objective") and isinstance(value, str)
            self[f"{name}.name" if short else name] = Leaf(plain(value), origin)


def read_own(*parts: str) -> tuple[CommentedMap, str]:
    """Return a config file of the package, and the name that origins give it."""
    name = "/".join(("configs", *parts))
    return copy.deepcopy(_parsed(files("nanogen").joinpath(name).read_text(encoding="utf-8"), name)), name


@cache
def _parsed(text: str, name: str) -> CommentedMap:
    return read_yaml(text, name)


def own_names(folder: str) -> list[str]:
    """Return the names of the package's config files in a folder, sorted."""
    found = (files("nanogen") / "configs" / folder).iterdir()
    return sorted(entry.name.removesuffix(".yaml") for entry in found if entry.name.endswith(".yaml"))


def task_names() -> list[str]:
    """Return the known tasks, sorted."""
    return own_names("task")


def method_names() -> list[str]:
    """Return the known methods in the order of the table."""
    return [str(name) for name in read_own("methods.yaml")[0]]


@cache
def _base() -> ConfigLayer:
    return ConfigLayer.of(*read_own("base.yaml"))


def _with_like(
    name: str, known: Sequence[str], read: Callable[[str], tuple[CommentedMap, str]]
) -> list[tuple[CommentedMap, str]]:
    """Return the tree and file of a task or method, and before them those of the one that it is `like`."""
    tree, file = read(name)
    like = tree.pop("like", None)
    if like is not None and (like not in known or "like" in read(like)[0]):
        raise ConfigError(f"{file}: '{name}' is like '{like}', which must be one of {few(known)}, without 'like'.")
    return [*([] if like is None else [read(like)]), (tree, file)]


def command_line(override: str) -> ConfigLayer:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"command line: expected key=value, got '{override}'. Example: optim.lr=1e-3")
    value = read_yaml(f"value: {text}", f"command line: {key}").get("value")
    return ConfigLayer.of({key: value}, "command line")


# ---- Composing ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ComposedConfig:
    """A checked config with the origin ("file:line" or "command line") of each dotted key.

    Attributes:
        choice: the task, method and scale it was composed for.
        layers: those that were merged; later ones win.
    """

    config: Config
    origins: dict[str, str]
    choice: dict[str, str]
    layers: tuple[str, ...]


def compose(
    task: str | None = None,
    method: str | None = None,
    scale: str | None = None,
    file: Path | None = None,
    overrides: Iterable[str] = (),
) -> ComposedConfig:
    """Merge the layers and check the result.

    Args:
        task, method, scale: names; where None, `use:` of the file, then of the task, decides.
        file: your own YAML, merged after the method; may choose by `use: {task: ..., method: ..., scale: ...}`.
        overrides: "a.b=value", the value read as YAML.

    Raises:
        ConfigError: unknown names and keys (nearest name, file and line), wrong types, impossible combinations.
    """
    mine, use = _own_layer(file)

    def choose(kind: str, asked: str | None, known: Sequence[str], default: str = "", default_from: str = "") -> str:
        if asked or kind in use:
            name, origin = (asked, "command line") if asked else (str(use[kind]), str(file))
        else:
            name, origin = default, default_from
        if name not in known:
            raise ConfigError(f"{origin}: unknown {kind} '{name}'. {nearest(name, list(known))}")
        return name

    if not task and "task" not in use:
        raise ConfigError(f"no task given. Choose one with --task: {', '.join(task_names())}.")
    task = choose("task", task, task_names())
    tasks = _with_like(task, task_names(), lambda name: read_own("task", f"{name}.yaml"))
    defaults: dict[str, str] = {}
    for tree, _ in tasks:
        defaults |= tree.pop("use", {})
    blocks = [(tree.pop("scales", {}), name) for tree, name in tasks]
    method = choose("method", method, method_names(), defaults["method"], tasks[-1][1])
    scale = choose("scale", scale, SCALES, defaults["scale"], tasks[-1][1])

    scale_tree, scale_file = read_own("scale", f"{scale}.yaml")
    table, file_of_methods = read_own("methods.yaml")
    for row in table.values():
        row.pop("about", None)
    methods = _with_like(method, list(table), lambda name: (table[name], file_of_methods))
    layers = [
        (scale_file, ConfigLayer.of(scale_tree, scale_file)),
        *((name, ConfigLayer.of(tree, name)) for tree, name in tasks),
        *((f"{name} scales.{scale}", ConfigLayer.of(block.get(scale, {}), name)) for block, name in blocks),
        *((f"{name} {method}", ConfigLayer.of(tree, name)) for tree, name in methods),
        (str(file), ConfigLayer.of(mine, str(file))),
        *(("command line", command_line(override)) for override in overrides),
    ]
    config, origins = _merge(_base(), [layer for _, layer in layers])
    names = dict.fromkeys(["configs/base.yaml", *(name for name, layer in layers if layer)])
    return ComposedConfig(config, origins, {"task": task, "method": method, "scale": scale}, tuple(names))


def _own_layer(file: Path | None) -> tuple[CommentedMap, Mapping[str, Any]]:
    """Return what a user's file sets and what it chooses by `use:`; nothing where there is none."""
    mine = CommentedMap()
    if file is not None:
        if file.is_dir():
            raise ConfigError(
                f"config file {file}: it is a folder. Give the path of a YAML file; a run goes on by the command that "
                "began it."
            )
        try:
            mine = read_yaml(read_small(file).decode(), str(file))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"config file {file}: {error}. Give the path of a YAML file.") from None
    use = mine.pop("use", {})
    if not isinstance(use, Mapping) or set(use) - {"task", "method", "scale"}:
        raise ConfigError(f"{file}: 'use' takes task, method and scale, found {plain(use)}.")
    return mine, use


def reload(values: Mapping[str, Any], origin: str) -> Config:
    """Check a stored complete config again, such as the one in a run folder or a weights file."""
    latent = values.get("latent")
    if isinstance(latent, Mapping) and "memory" in latent:
        # The name of `latent.cache_mb` in configs of before.
        values = {**values, "latent": {"cache_mb" if key == "memory" else key: latent[key] for key in latent}}
    return _merge(_base(), [ConfigLayer.of(values, origin)])[0]


def changed(config: Config, overrides: Iterable[str], allowed: Sequence[str], why: str) -> Config:
    """Return a config with some values replaced.

    Args:
        overrides: "a.b=value" as on the command line.
        allowed: sections that may change.
        why: clause for the message, such as "the run is trained".

    Raises:
        ConfigError: if a value outside `allowed` would change; key, stored and asked value are named.
    """
    stored = ConfigLayer.of(config.model_dump(mode="json"), "run")
    layers = [command_line(override) for override in overrides]
    refused = [
        f"{key} is {stored[key].value if key in stored else 'absent'}, asked: {leaf.value}"
        for layer in layers
        for key, leaf in layer.items()
        if key.split(".")[0] not in allowed and (key not in stored or stored[key].value != leaf.value)
    ]
    if refused:
        raise ConfigError(f"{why}: {few(refused, '; ')}. Allowed here: {', '.join(f'{name}.*' for name in allowed)}.")
    return _merge(stored, layers)[0]


def check_overrides(overrides: Iterable[str]) -> None:
    """Check keys and values of "a.b=value" by themselves; `changed` checks how they fit a stored config."""
    layers = [command_line(override) for override in overrides]
    # What the stored config decides: keys of its rows, and guidance by an early output.
    later = (*_OPEN, "guidance.internal.")
    closed = (ConfigLayer({k: leaf for k, leaf in layer.items() if not k.startswith(later)}) for layer in layers)
    _merge(_base(), list(closed))


def check_reference(composed: ComposedConfig) -> None:
    """Refuse an evaluation against real images that are neither a name nor a path, before anything heavy is loaded."""
    named = references_by_judge(composed.config.eval.references) if composed.config.eval.metrics else {}
    for given in filter(None, (named.get("reference"), *named.get("references", {}).values())):
        name, _ = split_name(given)
        if name not in (*REFERENCES, TRAINING_IMAGES) and not Path(name).exists():
            raise ConfigError(
                f"{composed.origins['eval.reference']}: eval.reference: unknown reference '{name}': it is no name and "
                f"no file or folder. {nearest(name, list(REFERENCES))}"
            )


def differences(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """Return dotted key -> (value in a, value in b) where two configs differ; None where absent."""
    left, right = leaves(a.model_dump(mode="json")), leaves(b.model_dump(mode="json"))
    keys = dict.fromkeys([*left, *right])
    return {key: (left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)}


# ---- Checking -----------------------------------------------------------------------------------------------------


def _merge(base: ConfigLayer, layers: Sequence[ConfigLayer]) -> tuple[Config, dict[str, str]]:
    """Return the checked config of `base` under `layers`, and the origin of each key."""
    merged = dict(base)
    for layer in layers:
        _leave_objective(merged, layer)
        merged = overlaid(merged, layer, base, tuple(_OPEN))
    config = checked(Config, merged)
    _check_names(config, merged)
    _check_objective(config, merged)
    return config, {key: merged[key].origin for key in merged}


def overlaid(
    merged: Mapping[str, Leaf], layer: ConfigLayer, known: Iterable[str], free: tuple[str, ...]
) -> dict[str, Leaf]:
    """Return the leaves of a layer over others; ConfigError for an unknown key, with the nearest known one.

    Args:
        known: allowed keys.
        free: how further keys begin, which rows declare; an empty table gives way to the first of them.
    """
    merged, known = dict(merged), list(known)
    for key, leaf in layer.items():
        if "" in key.split(".") or (key not in known and not key.startswith(free)):
            _refuse_key(key, leaf, known)
        for prefix in free:
            if key.startswith(prefix):
                merged.pop(prefix[:-1], None)
        if f"{key}." not in free or leaf.value:
            merged[key] = leaf
    return merged


def checked(model: type[ModelT], merged: Mapping[str, Leaf]) -> ModelT:
    """Return a model of leaves by dotted key; ConfigError, with file and line, for a wrong type or out of bounds."""
    tree: dict[str, Any] = {}
    for key, leaf in merged.items():
        *sections, last = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{leaf.origin}: '{key}': '{section}' is a value, which holds no others.")
        node[last] = leaf.value
    try:
        config = model.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_describe(error.errors(), merged)) from None
    _check_kinds(config.model_dump(), merged)
    return config


def _leave_objective(merged: dict[str, Leaf], layer: ConfigLayer) -> None:
    """Remove the options of an objective that a layer replaces by one without them; what a user typed stays."""
    name = layer.get("objective.name")
    if name is None or name.value == merged["objective.name"].value or name.value not in list(OBJECTIVES):
        return
    before = merged["objective.name"].value
    if reason := OBJECTIVES[before].excludes.get(name.value):
        raise ConfigError(
            f"{name.origin}: objective '{name.value}' cannot take the place of '{before}': {reason}. Choose a method "
            f"without '{before}'."
        )
    kept = {f"objective.{field}" for field in OBJECTIVES[name.value].options.model_fields}
    for key in [key for key in merged if key.startswith("objective.") and key not in kept]:
        if merged[key].origin != "command line":
            del merged[key]


def _refuse_key(key: str, leaf: Leaf, known: list[str]) -> None:
    inside = [name for name in known if name.startswith(f"{key}.")]
    if inside:
        found = clipped(repr(leaf.value), 200)
        raise ConfigError(f"{leaf.origin}: '{key}' is a section, found {found}. Set one of: {', '.join(inside)}.")
    last = key.rpartition(".")[2]
    same = [f"'{name}'" for name in known if name.rpartition(".")[2] == last]
    hint = f"Did you mean {' or '.join(same)}?" if same else nearest(key, known)
    if hint.startswith("Known") and len(known) > 12:
        hint = "`nanogen show` prints all keys."
    raise ConfigError(f"{leaf.origin}: unknown key '{key}'. {hint}")


def _check_kinds(values: Mapping[str, Any], merged: Mapping[str, Leaf], prefix: str = "") -> None:
    """Refuse values that the models would convert: words to numbers, `no` or 1 to a truth value, `true` to 1."""
    for key, value in leaves(values, prefix).items():
        leaf = merged.get(key)
        if leaf and any(isinstance(leaf.value, kind) != isinstance(value, kind) for kind in (bool, str)):
            kind = "true or false" if isinstance(value, bool) else "a number"
            raise ConfigError(f"{leaf.origin}: {key}: expected {kind}, found {clipped(repr(leaf.value), 200)}")


def _describe(entries: Sequence[Any], merged: Mapping[str, Leaf]) -> str:
    """Return one clause per key; the arms of a union are alternatives."""
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


def _check_names(config: Config, merged: Mapping[str, Leaf]) -> None:
    """Check every name against its table, and the settings that rows declare."""
    check_options(OBJECTIVES, config.objective.get("name"), config.objective, "objective", merged)
    for name, options in config.losses.items():
        check_options(LOSSES, name, options, f"losses.{name}", merged)
        _check_needs(name, config, merged)
    tables: dict[str, tuple[Table[Any], Sequence[str]]] = {
        "latent.name": (LATENTS, [config.latent.name]),
        "optim.name": (OPTIMIZERS, [config.optim.name]),
        "data.name": (DATASETS, [config.data.name]),
        "condition.kind": (CONDITIONS, [config.condition.kind]),
        "sampler.name": (SAMPLERS, [config.sampler.name]),
        "eval.axis": (AXES, [config.eval.axis]),
        "eval.metrics": (METRICS, config.eval.metrics),
    }
    for key, (table, names) in tables.items():
        for name in names:
            _check_name(table, name, f"{merged[key].origin}: {key}")


def _check_needs(name: str, config: Config, merged: Mapping[str, Leaf]) -> None:
    """Refuse an extra loss where the rest of a config leaves it undefined."""
    found, row = leaves(config.model_dump()), LOSSES[name]
    for key, needed in row.needs.items():
        if found.get(key) != needed:
            raise ConfigError(
                f"{merged[f'losses.{name}.weight'].origin}: losses.{name} is not defined with {key} "
                f"{found.get(key)!r}, only with {needed!r}: {row.reason}. Choose another method or leave the loss out."
            )


def _check_objective(config: Config, merged: Mapping[str, Leaf]) -> None:
    """Refuse samplers, steps and guidance for which the objective is not defined."""
    name, guidance = config.objective["name"], config.guidance
    spec, sampler, num_steps = OBJECTIVES[name], config.sampler.name, config.sampler.num_steps
    drop_prob, scaled = config.condition.drop_prob, guidance.scale != 1
    internal = zip(("guidance.internal.scale", "guidance.internal.null_scale"), guidance.internal.scales, strict=True)
    guided = [key for key, scale in (("guidance.scale", guidance.scale), *internal) if scale != 1]
    key, problem = "", ""
    if spec.unguided and guided:
        key = guided[0]
        problem = f"guidance in sampling is not defined for objective '{name}': {spec.unguided}. Set {key}=1."
    elif guided not in ([], ["guidance.scale"]) and config.objective.get("early_depth") is None:
        key = next(key for key in guided if key != "guidance.scale")
        problem = "it needs a network that was trained with an early output (objective.early_depth). Set it to 1."
    elif not 0 < drop_prob < 1 and (scaled or spec.guided(spec.options.model_validate(config.objective))):
        key, remedy = ("guidance.scale", 1) if scaled else ("condition.drop_prob", 0.1)
        problem = f"guidance needs a condition.drop_prob between 0 and 1, found {drop_prob:g}. Set {key}={remedy}."
    elif spec.num_times == 2 and not SAMPLERS[sampler].for_means:
        means = few([known for known in SAMPLERS if SAMPLERS[known].for_means])
        key, problem = "sampler.name", f"objective '{name}' gives mean velocities, '{sampler}' takes none. Set {means}."
    elif spec.max_steps is not None and num_steps > spec.max_steps:
        key = "sampler.num_steps"
        problem = f"objective '{name}' is sampled in at most {spec.max_steps} steps, found {num_steps}. Set {key}=1."
    if key:
        raise ConfigError(f"{merged[key].origin}: {key}: {problem}")


def _check_name(table: Table[Any], name: Any, where: str) -> None:
    # A metric without code is known by its published figures only.
    known = [row for row in table if table is not METRICS or table[row].load is not None]
    if name not in known:
        raise ConfigError(f"{where}: unknown {table.kind} '{name}'. {nearest(str(name), known)}")


def check_options(
    table: Table[Any], name: Any, values: Mapping[str, Any], prefix: str, merged: Mapping[str, Leaf]
) -> None:
    _check_name(table, name, next(leaf.origin for key, leaf in merged.items() if key.startswith(prefix)))
    options: type[BaseModel] = table[name].options
    for key in values:
        if key not in options.model_fields:
            # An unknown key may itself hold values.
            name = next(name for name in merged if f"{name}.".startswith(f"{prefix}.{key}."))
            _refuse_key(name, merged[name], [f"{prefix}.{field}" for field in options.model_fields])
    try:
        _check_kinds(options.model_validate(values).model_dump(), merged, f"{prefix}.")
    except ValidationError as error:
        entries = [{**entry, "loc": (*prefix.split("."), *entry["loc"])} for entry in error.errors()]
        raise ConfigError(_describe(entries, merged)) from None
