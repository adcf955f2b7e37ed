"""YAML text as dotted keys, each with its value and the file and line it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent

from diffusionbench.errors import ConfigError
from diffusionbench.shown import clipped


def leaves(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of a nested mapping; lists and empty mappings are values."""
    found: dict[str, Any] = {}
    for key, child in value.items():
        name = f"{prefix}{key}"
        if isinstance(child, Mapping) and child:
            found |= leaves(child, f"{name}.")
        else:
            found[name] = child
    return found


@dataclass(frozen=True)
class Leaf:
    value: Any
    origin: str


class Layer(dict[str, Leaf]):
    """Dotted key -> value and origin."""

    @classmethod
    def of(cls, tree: Mapping[str, Any], file: str) -> Layer:
        layer = cls()
        layer._add(tree, file, "")
        return layer

    def _add(self, tree: Mapping[str, Any], file: str, prefix: str) -> None:
        lines = tree.lc.data or {} if isinstance(tree, CommentedMap) else {}
        for key, value in tree.items():
            # What an alias merges in has no line here.
            name, line = f"{prefix}{key}", lines[key][0] + 1 if key in lines else None
            origin = file if line is None else f"{file}:{line}"
            if isinstance(value, Mapping) and value:
                self._add(value, file, f"{name}.")
            elif name in self:
                raise ConfigError(f"{origin}: '{name}' is written twice; also {self[name].origin}. Keep one of them.")
            else:
                # A bare name is short for the section's `name`.
                short = name in ("latent", "objective") and isinstance(value, str)
                self[f"{name}.name" if short else name] = Leaf(plain(value), origin)


def plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): plain(child) for key, child in value.items()}
    if isinstance(value, list):
        return [plain(child) for child in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


# Our own files have 200 values on 3 levels, in 10 kB.
MOST_CHARACTERS, MOST_VALUES, MOST_LEVELS = 1_000_000, 10_000, 20


def read_yaml(text: str, file: str) -> CommentedMap:
    """Parse YAML 1.2 text of key-value pairs.

    Raises:
        ConfigError: with file and line, if it is not that, or unfolds to more values or levels than a config has.
    """
    try:
        _check_extent(text, file)
        tree = YAML(typ="rt").load(text)
    except ConfigError:
        raise
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else file
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise ConfigError(f"{where}: not valid YAML: {clipped(reason, 200)}.") from None
    except Exception as error:
        # Its constructors raise whatever Python does: an integer of 5,000 digits, the 99th of a month, a map in itself.
        raise ConfigError(f"{file}: a value cannot be read ({clipped(str(error), 200)}). Write another one.") from None
    if tree is None:
        return CommentedMap()
    if not isinstance(tree, CommentedMap):
        found = "a list" if isinstance(tree, list) else f"the value {clipped(str(tree), 80)}"
        raise ConfigError(f"{file}: a config consists of 'key: value' lines, found {found}.")
    _check_unfolded(tree, file)
    return tree


def _too_large(file: str, line: int | None = None) -> ConfigError:
    return ConfigError(
        f"{file}{f':{line}' if line else ''}: a config has at most {MOST_CHARACTERS:,} characters, {MOST_VALUES:,} "
        f"values (aliases unfolded) and {MOST_LEVELS} levels. Write a shorter one."
    )


def _check_extent(text: str, file: str) -> None:
    """Refuse what would take minutes or the whole stack to build, from the stream of its events."""
    if len(text) > MOST_CHARACTERS:
        raise _too_large(file)
    level = 0
    for count, event in enumerate(YAML(typ="rt").parse(text)):
        level += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if level > MOST_LEVELS or count > 2 * MOST_VALUES:
            raise _too_large(file, event.start_mark.line + 1)


def _check_unfolded(tree: CommentedMap, file: str) -> None:
    """Refuse aliases that unfold without end, or contain themselves."""
    waiting: list[tuple[Any, int]] = [(tree, 1)]
    count = 0
    while waiting:
        value, level = waiting.pop()
        count += 1
        if count > MOST_VALUES or level > MOST_LEVELS:
            raise _too_large(file)
        if isinstance(value, int) and value.bit_length() > 1024:
            # Python refuses to print it, so no later message could.
            raise ConfigError(f"{file}: found a whole number of {value.bit_length():,} bits. Write a smaller one.")
        children = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
        waiting += ((child, level + 1) for child in children)
