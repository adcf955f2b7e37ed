"""Conditions that are captions: states of a frozen text encoder, encoded once per distinct caption."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusionbench.errors import ConfigError, RequestError
from diffusionbench.shown import printable
from nanogen.conditions import Ask, ConditionKind, Settings
from nanogen.text import open_spec
from nanogen.text.manifest import read_manifest, stale

if TYPE_CHECKING:
    from torch import Tensor

    from nanogen.data import Dataset
    from nanogen.model.condition import TextCondition
    from nanogen.text.states import TextStates


def fit(settings: Settings, data: Dataset) -> dict[str, Any]:
    """Nothing is counted; the data must have captions, and a text cache must be of this data.

    Raises:
        ConfigError: if there are none.
        DataError: if the cache is stale or none.
    """
    if not data.captioned:
        raise ConfigError(
            "condition.kind is text, and the data has no captions. Put NAME.txt beside NAME.png, set data.template "
            "for data with classes, or set condition.kind=class."
        )
    if settings["cache"] is not None:
        folder = Path(settings["cache"])
        found = read_manifest(folder).data_digest
        if found != data.digest:
            raise stale(folder, "the data's hash", found[:12], data.digest[:12])
    return dict(settings)


def shape(settings: Settings) -> dict[str, int]:
    """Return the width of the encoder's states.

    Raises:
        ConfigError: if the encoder is unknown.
    """
    return {"text_width": open_spec(settings["encoder"]).width}


class TextConditioner:
    """Captions to `TextCondition`, cut to the longest caption of the batch.

    Args:
        states: looks captions up or encodes them.
    """

    def __init__(self, states: TextStates) -> None:
        self._states = states
        self._noted = False

    @property
    def digest(self) -> str:
        """SHA-256 over the encoder's weights and tokenizer."""
        return self._states.encoder.digest

    def __call__(self, labels: Sequence[int | None] | Tensor | None, captions: Sequence[str] | None) -> TextCondition:
        """Look up or encode captions.

        Raises:
            RequestError: if there are none.
        """
        from nanogen.model.condition import TextCondition

        if not captions:
            raise RequestError("this network draws captions, and none was given. Give a prompt for every image.")
        return TextCondition(*self._states(captions))

    def asks(self, labels: str, prompts: Sequence[str]) -> list[Ask]:
        """See `Conditioner.asks`."""
        if labels:
            raise RequestError(
                f"--labels {labels} was given, and this network draws captions. Use --prompt or --prompts."
            )
        if not prompts:
            raise RequestError('this network draws captions, and none was given. Use --prompt "two red circles".')
        for prompt in prompts:
            if re.search("[\0\ud800-\udfff]", prompt):
                raise RequestError(f"prompt '{printable(prompt)}' is no UTF-8 text. Write it again.")
        width = len(str(len(prompts) - 1))
        return [Ask(caption=prompt, folder=f"{place:0{width}d}") for place, prompt in enumerate(prompts)]

    def examples(self, data: Dataset, num: int) -> list[Ask]:
        """Return the first captions of the data."""
        return [Ask(caption=data.caption(place)) for place in range(min(num, len(data)))]

    def notes(self) -> list[str]:
        """Return how many captions were longer than the encoder reads, said once."""
        encoder = self._states.encoder
        if not encoder.truncated or self._noted:
            return []
        self._noted = True
        return [f"{encoder.truncated} caption(s) were longer than {encoder.max_tokens} tokens and were cut."]


def create(settings: Settings, device: str) -> TextConditioner:
    """Return a conditioner; the encoder itself is opened when a caption is found nowhere else.

    Raises:
        ConfigError: if the encoder is unknown.
        DataError: if the text cache is not readable.
    """
    from nanogen.text.cache import TextCache
    from nanogen.text.encoder import TextEncoder
    from nanogen.text.states import TextStates

    encoder = TextEncoder(settings["encoder"], open_spec(settings["encoder"]), device, settings["max_tokens"])
    cache = None if settings["cache"] is None else TextCache.open(Path(settings["cache"]), encoder)
    return TextConditioner(TextStates(encoder, cache))


TEXT = ConditionKind(
    title="a caption per image, through a frozen text encoder",
    answers="prompts",
    fit=fit,
    shape=shape,
    create=create,
)
