"""AdamW over all parameters in one group: norms, biases, embeddings and Fourier frequencies among them.

Source: Loshchilov and Hutter 2019 (arXiv 1711.05101).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from nanogen.settings import OptimConfig


def adamw(parameters: Mapping[str, nn.Parameter], optim: OptimConfig) -> list[torch.optim.Optimizer]:
    """Return fused AdamW with the betas, eps and weight decay of a config."""
    return [
        torch.optim.AdamW(
            parameters.values(),
            lr=0.0,
            betas=optim.betas,
            eps=optim.eps,
            weight_decay=optim.weight_decay,
            fused=True,
        )
    ]
