"""Verbs of a command line, of either program: what they are given, and options that come in groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from itertools import pairwise
from typing import Any

from diffusionbench.errors import RequestError


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


def check_given(words: Sequence[str]) -> None:
    """Check that no argument but a prompt is empty, as that of an unset variable is.

    Raises:
        RequestError: if one is; as a path it would stand for the current folder.
    """
    for before, word in pairwise(words):
        empty = before if word == "" else word[:-1] if word.startswith("--") and word.endswith("=") else "--prompt"
        if empty != "--prompt":
            raise RequestError(
                f"what follows '{empty}' is empty, as an unset variable is. Give a value, or leave it out."
            )
