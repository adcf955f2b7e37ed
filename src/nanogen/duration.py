"""Durations with a unit: written as text, turned into optimizer steps once."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator

from diffusionbench.errors import ConfigError

_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*([kM]?)\s*(steps?|epochs?|images?)")
_FACTOR = {"": 1, "k": 1_000, "M": 1_000_000}
NEVER = "never"


def _parse(text: Any) -> str:
    if isinstance(text, str) and _FORM.fullmatch(text.strip()):
        return text.strip()
    raise ValueError("a duration is a number with a unit, such as '600 steps', '80 epochs', '50M images'")


def _parse_period(text: Any) -> str:
    if text == NEVER:
        return NEVER
    try:
        return _parse(text)
    except ValueError as error:
        raise ValueError(f"{error}, or '{NEVER}'") from None


Duration = Annotated[str, BeforeValidator(_parse)]
# How often something happens, which may be never.
Period = Annotated[str, BeforeValidator(_parse_period)]


def to_steps(duration: str, batch_size: int, num_images: int) -> int | None:
    """Optimizer steps of a duration, rounded down; None for 'never'.

    Args:
        duration: text such as "600 steps", "80 epochs", "50M images".
        batch_size: images per step.
        num_images: images per epoch; the incomplete last batch of an epoch is dropped.
    """
    if duration == NEVER:
        return None
    form = _FORM.fullmatch(duration)
    if form is None:
        raise ConfigError(f"duration '{duration}': expected a number and steps, epochs or images.")
    # Exact: as a float, 2.01k would be 2009.
    number, unit = Fraction(form[1]) * _FACTOR[form[2]], form[3].rstrip("s")
    if unit == "image":
        return int(number / batch_size)
    return int(number * (num_images // batch_size)) if unit == "epoch" else int(number)


def due(step: int, every: int | None) -> bool:
    """Whether something with this period happens after `step` updates."""
    return every is not None and step > 0 and step % max(every, 1) == 0
