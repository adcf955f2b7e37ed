"""A state of two parts that are diffused together, an image and a vector: it adds and scales like a tensor."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.utils import _pytree

Factor = float | Tensor
"""A number, or one of each image, [B, 1, 1, 1]."""


@dataclass(frozen=True)
class Pair:
    """An image and a vector.

    Attributes:
        image: float [B, C, h, w].
        vector: float [B, V].
    """

    image: Tensor
    vector: Tensor

    def __add__(self, other: Pair) -> Pair:
        return Pair(self.image + other.image, self.vector + other.vector)

    def __sub__(self, other: Pair) -> Pair:
        return Pair(self.image - other.image, self.vector - other.vector)

    def __rmul__(self, factor: Factor) -> Pair:
        return Pair(factor * self.image, _flat(factor) * self.vector)

    def __truediv__(self, factor: Factor) -> Pair:
        return Pair(self.image / factor, self.vector / _flat(factor))


# Wrappers of several processes look for the tensors in what a network returns, and miss gradients where they find none.
_pytree.register_dataclass(Pair)


def _flat(factor: Factor) -> Factor:
    return factor.flatten(1) if isinstance(factor, Tensor) else factor
