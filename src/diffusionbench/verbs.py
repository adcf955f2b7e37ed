"""Verbs of a command line, of either program, whose options come in groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any


def with_groups(verb: Callable[..., None]) -> Callable[..., None]:
    """Return a verb that takes, in place of each parameter whose type is a dataclass, the fields of it as options."""
    given = signature(verb, eval_str=True).parameters
    groups: dict[str, Any] = {name: one.annotation for name, one in given.items() if is_dataclass(one.annotation)}
    options = [
        option.replace(kind=Parameter.KEYWORD_ONLY)
        for name, one in given.items()
        for option in (signature(groups[name], eval_str=True).parameters.values() if name in groups else (one,))
    ]

    @wraps(verb)
    def flat(**found: Any) -> None:
        for name, kind in groups.items():
            found[name] = kind(**{field.name: found.pop(field.name) for field in fields(kind)})
        verb(**found)

    flat.__signature__ = Signature(options)  # type: ignore[attr-defined]
    flat.__annotations__ = {option.name: option.annotation for option in options}
    return flat
