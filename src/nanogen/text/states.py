"""Text states by caption: encoded once, kept, and gathered into batches cut to the longest caption.

Kept states lie end to end in one growing block, so a batch is one gather and nothing is padded in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nanogen.text.cache import TextCache
from nanogen.text.encoder import TextEncoder

# Bytes of states that are kept; beyond, everything is dropped and collected anew.
KEPT_BYTES = 2**30


class TextStates:
    """Looks captions up in memory, then in a cache on disk, and encodes what neither has.

    Args:
        encoder: opened only when a caption is found nowhere.
        cache: what `nanogen prepare text` wrote, or None.
    """

    def __init__(self, encoder: TextEncoder, cache: TextCache | None = None) -> None:
        self.encoder, self.cache = encoder, cache
        self._clear()

    def _clear(self) -> None:
        width, device = self.encoder.spec.width, self.encoder.device
        self._block = torch.empty(0, width, device=device)
        self._used = 0
        self._places: dict[str, tuple[int, int]] = {}

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Return the states of captions.

        Returns:
            states: float32 [B, L, width], L the length of the longest caption.
            mask: bool [B, L], true for real tokens; None where all are.

        Raises:
            RequestError: if the encoder is needed and cannot be opened.
        """
        new = [caption for caption in dict.fromkeys(captions) if caption not in self._places]
        if new:
            if self._block.nbytes > KEPT_BYTES:
                self._clear()
                new = list(dict.fromkeys(captions))
            found = {} if self.cache is None else self.cache.read(new)
            missing = [caption for caption in new if caption not in found]
            if missing:
                found |= dict(zip(missing, self.encoder(missing), strict=True))
            for caption in new:
                states = found[caption]
                end = self._used + len(states)
                if end > len(self._block):
                    grown = self._block.new_empty(max(end, 2 * len(self._block), 4096), self._block.shape[1])
                    grown[: self._used] = self._block[: self._used]
                    self._block = grown
                self._block[self._used : end] = states
                self._places[caption] = (self._used, len(states))
                self._used = end
        starts, lengths = zip(*(self._places[caption] for caption in captions), strict=True)
        device = self._block.device
        longest = max(lengths)
        inside = torch.arange(longest)[None]
        counts = torch.tensor(lengths)[:, None]
        # Padding repeats the first row of the block: finite, and never attended to.
        index = torch.where(inside < counts, torch.tensor(starts)[:, None] + inside, 0)
        empty = self._block.new_zeros(len(captions), 0, self._block.shape[1])
        states = self._block[index.to(device)] if self._used else empty
        return states, None if min(lengths) == longest else (inside < counts).to(device)
