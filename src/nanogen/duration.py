"""Durations with a unit: written as text, turned into optimizer steps once."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from diffusionbench.errors import ConfigError

_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*([kM]?)\s*(steps?|epochs?|images?)")
_FACTOR = {"": 1, "k": 1_000, "M": 1_000_000}
NEVER = "never"


def _parse(text: Any) -> str:
    if isinstance(text, str) and (text == NEVER or _FORM.fullmatch(text.strip())):
        return text.strip()
    raise ValueError("a duration is a number with a unit, such as '600 steps', '80 epochs', '50M images', or 'never'")


Duration = Annotated[str, BeforeValidator(_parse), AfterValidator(str)]


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
    number, unit = float(form[1]) * _FACTOR[form[2]], form[3].rstrip("s")
    if unit == "image":
        return int(number / batch_size)
    return int(number * (num_images // batch_size)) if unit == "epoch" else int(number)


def due(step: int, every: int | None) -> bool:
    """Whether something with this period happens after `step` updates."""
    return every is not None and step > 0 and step % max(every, 1) == 0
