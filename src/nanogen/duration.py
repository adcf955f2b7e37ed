"""Durations with a unit: written as text, turned into optimizer steps once."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator

from diffusionbench import bounds
from diffusionbench.errors import ConfigError

_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*([kM]?)\s*(steps?|epochs?|images?)")
_FACTOR = {"": 1, "k": 1_000, "M": 1_000_000}
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")
NEVER = "never"
_DIGITS = 32


def _parse(text: Any) -> str:
    if isinstance(text, str) and (form := _FORM.fullmatch(text.strip())):
        return _bounded(text.strip(), form[1], _FACTOR[form[2]])
    raise ValueError("a duration is a number with a unit, such as '600 steps', '80 epochs', '50M images'")


def _bounded(text: str, number: str, factor: int) -> str:
    # The length first: an integer of thousands of digits is refused by Python itself.
    if len(number) > _DIGITS or Fraction(number) * factor > bounds.DURATION:
        raise ValueError(f"a duration is at most {bounds.DURATION:.0e} steps, epochs, images or percent")
    return text


def _parse_period(text: Any) -> str:
    if text == NEVER:
        return NEVER
    try:
        return _parse(text)
    except ValueError as error:
        raise ValueError(f"{error}, or '{NEVER}'") from None


def _parse_point(text: Any) -> str:
    if isinstance(text, str) and (share := _SHARE.fullmatch(text.strip())):
        return _bounded(text.strip(), share[1], 1)
    try:
        return _parse(text)
    except ValueError as error:
        raise ValueError(f"{error}, or a share of the training such as '50 %'") from None


Duration = Annotated[str, BeforeValidator(_parse)]
# A moment of the training: a duration from its start, or a share of the whole.
Point = Annotated[str, BeforeValidator(_parse_point)]
# How often something happens, which may be never.
Period = Annotated[str, BeforeValidator(_parse_period)]


def to_steps(duration: str, batch_size: int, num_images: int, whole: int | None = None) -> int | None:
    """Optimizer steps of a duration, rounded down; None for 'never'.

    Args:
        duration: text such as "600 steps", "80 epochs", "50M images", "50 %".
        batch_size: images per step.
        num_images: images per epoch; the incomplete last batch of an epoch is dropped.
        whole: steps of the training, for a share of it.
    """
    if duration == NEVER:
        return None
    share = _SHARE.fullmatch(duration)
    if share is not None and whole is not None:
        return int(Fraction(share[1]) * whole / 100)
    form = _FORM.fullmatch(duration)
    if form is None:
        raise ConfigError(f"duration '{duration}': expected a number and steps, epochs or images.")
    # Exact: as a float, 2.01k would be 2009.
    number, unit = Fraction(form[1]) * _FACTOR[form[2]], form[3].rstrip("s")
    if unit == "image":
        return int(number / batch_size)
    return int(number * (num_images // batch_size)) if unit == "epoch" else int(number)


def due(step: int, every: int | None) -> bool:
    """Return whether something with this period happens after `step` updates."""
    return every is not None and step > 0 and step % max(every, 1) == 0
