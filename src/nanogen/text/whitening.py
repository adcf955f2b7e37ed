"""Whitened states: what tells captions apart is small in an encoder's states beside what all captions share.

States lie in a narrow cone, and a few directions hold most of their variance. A network that is trained for minutes
learns from those alone; whitened, every direction has about the same variance.

Sources: whitening of BERT's states, Su et al. 2021 (arXiv 2103.15316); their few dominant directions, Timkey and van
Schijndel 2021 (arXiv 2109.04404).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusionbench.schema import verify_bundled_weights


@dataclass(frozen=True)
class Whitening:
    """The map x -> (x - mean) matrix.

    Attributes:
        mean: float32 [width].
        matrix: float32 [width, width].
    """

    mean: Tensor
    matrix: Tensor

    def __call__(self, states: Tensor) -> Tensor:
        """Map states [..., width] to float32 [..., width]."""
        return (states.float() - self.mean) @ self.matrix


def fit(states: Tensor, floor: float) -> Whitening:
    """Principal directions, each divided by sqrt(s^2 + (floor s_1)^2), where s is its deviation and s_1 the largest.

    Args:
        states: [n, width].
        floor: what is smaller than this share of the largest deviation is not blown up to it.
    """
    mean = states.double().mean(0)
    _, singular, directions = torch.linalg.svd(states.double() - mean, full_matrices=False)
    deviations = singular / len(states) ** 0.5
    matrix = directions.T / (deviations.square() + (floor * deviations[0]).square()).sqrt()
    return Whitening(mean.float(), matrix.float())


def files(name: str) -> tuple[Path, Path]:
    """Return where the tensors and the card of a shipped whitening lie."""
    return Path(__file__).with_name(f"{name}.safetensors"), Path(__file__).with_name(f"{name}.json")


def card(name: str) -> dict[str, Any]:
    """Recipe and hash of a shipped whitening, as the script that fitted it wrote them."""
    return json.loads(files(name)[1].read_text())


def open_whitening(name: str, device: str) -> Whitening:
    """Return a whitening that ships with the package.

    Raises:
        RequestError: if its file is missing or is not the one its card names.
    """
    from safetensors.torch import load_file

    weights, _ = files(name)
    verify_bundled_weights(f"whitening '{name}'", weights, card(name)["sha256"])
    tensors = load_file(weights, device=device)
    return Whitening(tensors["mean"].float(), tensors["matrix"].float())
