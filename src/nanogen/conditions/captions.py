"""Conditions that are captions: states of a frozen text encoder, encoded once per distinct caption."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffusionbench.errors import ConfigError, RequestError
from diffusionbench.shown import printable
from nanogen.conditions import Conditioner, SampleSpec, Settings
from nanogen.model.condition import TextCondition
from nanogen.shards import read_manifest
from nanogen.text import open_spec
from nanogen.text.cache import CacheManifest, TextCache, check_current
from nanogen.text.encoder import TextEncoder
from nanogen.text.states import TextStates

if TYPE_CHECKING:
    from nanogen.data import Dataset


class TextConditioner(Conditioner):
    """Maps captions to `TextCondition`, cut to the longest caption of the batch.

    The encoder itself is opened when a caption is found nowhere else. On CUDA all of it runs on a stream of its own, so
    that a step and the captions of the next one do not wait for each other.

    Raises:
        ConfigError: if the encoder is unknown.
        DataError: if the text cache is not readable.
    """

    def __init__(self, settings: Settings, device: str) -> None:
        super().__init__(settings, device)
        name = settings["encoder"]
        self._encoder = TextEncoder(name, open_spec(name), device, settings["max_tokens"])
        cache = None if settings["cache"] is None else TextCache(Path(settings["cache"]), self._encoder)
        self._states = TextStates(self._encoder, cache)
        self._stream = torch.cuda.Stream(device) if torch.device(device).type == "cuda" else None
        self._noted = False

    @staticmethod
    def infer_from_data(settings: Settings, data: Dataset) -> dict[str, Any]:
        """Return the settings as they are; the data must have captions, and a text cache must be of this data.

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
            check_current(
                folder, "the data's hash", read_manifest(folder, CacheManifest).data_digest[:12], data.digest[:12]
            )
        return dict(settings)

    @property
    def digest(self) -> str:
        """SHA-256 over the encoder's weights and tokenizer."""
        return self._encoder.digest

    def __call__(self, labels: Sequence[int | None] | Tensor | None, captions: Sequence[str] | None) -> TextCondition:
        """Look up or encode captions; RequestError if there are none."""
        if not captions:
            raise RequestError("this network draws captions, and none was given. Give a prompt for every image.")
        if self._stream is None:
            return TextCondition(*self._states(captions))
        current = torch.cuda.current_stream(self._stream.device)
        with torch.cuda.stream(self._stream):
            states, mask = self._states(captions)
        current.wait_stream(self._stream)
        # Memory of one stream that another reads.
        for tensor in (states, mask):
            if tensor is not None:
                tensor.record_stream(current)
        return TextCondition(states, mask)

    def parse_specs(self, labels: str, prompts: Sequence[str]) -> list[SampleSpec]:
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
        return [SampleSpec(caption=prompt, folder=f"{index:0{width}d}") for index, prompt in enumerate(prompts)]

    def examples(self, data: Dataset, num: int) -> list[SampleSpec]:
        """Return the first captions of the data."""
        return [SampleSpec(caption=data.caption(index)) for index in range(min(num, len(data)))]

    def mean_tokens(self, data: Dataset) -> float | None:
        texts = filter(None, (data.caption(index) for index in range(min(32, len(data)))))
        found = self(None, [*texts])
        return float(found.states.shape[1] if found.mask is None else found.mask.sum(1).float().mean())

    def notes(self) -> list[str]:
        """Return how many captions were longer than the encoder reads, said once."""
        if not self._encoder.truncated or self._noted:
            return []
        self._noted = True
        return [
            f"{self._encoder.truncated} caption(s) were longer than {self._encoder.max_tokens} tokens and were cut."
        ]
