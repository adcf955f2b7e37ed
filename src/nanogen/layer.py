"""YAML text as dotted keys, each with its value and the file and line it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from diffusionbench.errors import ConfigError


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
        for key, value in tree.items():
            name, line = f"{prefix}{key}", tree.lc.key(key)[0] + 1 if isinstance(tree, CommentedMap) else None
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


def read_yaml(text: str, file: str) -> CommentedMap:
    """Parse YAML 1.2 text of key-value pairs.

    Raises:
        ConfigError: with file and line, if it is not that.
    """
    try:
        tree = YAML(typ="rt").load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else file
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}.") from None
    if tree is None:
        return CommentedMap()
    if not isinstance(tree, CommentedMap):
        raise ConfigError(f"{file}: a config is a list of 'key: value' lines, found {type(tree).__name__}.")
    return tree
