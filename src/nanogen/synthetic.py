"""Stand-ins for data, latent space and conditioner, so that training steps can be timed without any of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from nanogen import parallel
from nanogen.build import Components, build_components
from nanogen.conditions import Conditioner, SampleSpec
from nanogen.config import Config
from nanogen.data import Batch
from nanogen.latents import Latent, LatentSpec
from nanogen.model.condition import ClassCondition, Condition, TextCondition
from nanogen.model.shape import Shape
from nanogen.precision import Precision
from nanogen.resolve import resolve


class SyntheticLatent(Latent):
    """Stands for a latent space whose weights are not needed: images become noise of the right shape."""

    def __init__(self, spec: LatentSpec, device: str) -> None:
        self.spec = spec

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return torch.randn(len(images), *self.spec.shape(images.shape[-1]), device=images.device)


class SyntheticConditioner(Conditioner):
    """Stands for a conditioner whose data and encoder are not needed: classes in turn, or captions of one length."""

    def __init__(self, shape: Shape, num_text_tokens: int, device: str) -> None:
        self.shape, self.num_text_tokens, self.device = shape, num_text_tokens, device

    @staticmethod
    def infer_from_data(settings: Any, data: Any) -> dict[str, Any]:
        return {}

    def parse_specs(self, labels: str, prompts: Any) -> list[SampleSpec]:
        return []

    def examples(self, data: Any, num: int) -> list[SampleSpec]:
        return []

    def __call__(self, labels: Any, captions: Any) -> Condition:
        if self.shape.num_classes is not None:
            return ClassCondition(labels.to(self.device) % self.shape.num_classes, self.shape.num_classes)
        assert self.shape.text_width is not None
        size = (len(labels), self.num_text_tokens, self.shape.text_width)
        return TextCondition(torch.randn(size, device=self.device), None)


def synthetic_components(config: Config, device: str, precision: Precision, num_text_tokens: int) -> Components:
    """Return the components of a config without its latent space and conditioner."""
    derived = resolve(config)
    conditioner = SyntheticConditioner(derived.shape, num_text_tokens, device)
    return build_components(config, device, precision, SyntheticLatent(derived.latent, device), conditioner)


def synthetic_batches(config: Config) -> Iterator[Batch]:
    """Give random micro-batches of the config's size for ever."""
    accumulation = config.train.accumulation
    size = config.train.batch_size // (accumulation * parallel.world_size())
    pixels = config.data.image_size
    image = torch.randint(0, 256, (size, 3, pixels, pixels), dtype=torch.uint8)
    while True:
        for micro in range(accumulation):
            yield Batch(image, torch.arange(size), None, list(range(micro * size, (micro + 1) * size)))
