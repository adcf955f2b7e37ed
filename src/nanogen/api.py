"""The Python interface: weights as an object that draws images. `nanogen.load` is this one."""

from __future__ import annotations

import operator
import shlex
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from diffusionbench import bounds
from diffusionbench.errors import RequestError
from diffusionbench.provenance import check_device
from diffusionbench.sample import SAMPLE, noise_seed
from nanogen.evaluate import NetworkSource, request_facts
from nanogen.pipeline import ImagePipeline, Loaded, open_weights
from nanogen.rng import SeededNoise


class Model:
    """A trained network that draws images.

    Attributes:
        loaded: its weights, config and components.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self._pipeline = lru_cache(4)(self._changed)

    def __repr__(self) -> str:
        return f"<nanogen.Model {self.loaded.path}, step {self.loaded.step}, on {self.loaded.components.device}>"

    def sample(
        self,
        labels: Sequence[int] | None = None,
        prompts: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        guidance: float | None = None,
        steps: int | None = None,
    ) -> np.ndarray:
        """Draw one image for each label or prompt.

        Args:
            labels: B classes from 0 on, of a network of classes.
            prompts: B captions, of a network of captions.
            seeds: of the images' noise, in 0..2^63 - 1; by default those of the first B images of
                `nanogen sample --seed 0`. Equal seeds, conditions and settings give equal images.
            guidance: scale; by default the config's.
            steps: of the sampler; by default the config's.

        Returns:
            uint8 [B, H, W, 3].

        Raises:
            RequestError: if labels, prompts or seeds are of another kind or number, or out of range.
            ConfigError: if guidance or steps are out of range.
        """
        if (labels is None) == (prompts is None):
            raise RequestError("an image is drawn for each label or each prompt. Give labels=[...] or prompts=[...].")
        if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts or ()):
            raise RequestError("prompts must be a list of texts.")
        texts, numbers = list(prompts or ()), _numbers("labels", labels, bounds.CLASSES)
        count = len(numbers if prompts is None else texts)
        noise = [noise_seed(0, SAMPLE, place) for place in range(count)]
        if seeds is not None:
            noise = _numbers("seeds", seeds, 2**63)
        if len(noise) != count:
            raise RequestError(f"{len(noise)} seeds were given for {count} images. Give one seed for each.")
        pipeline = self._pipeline(guidance, steps)
        components, size = pipeline.components, pipeline.config.eval.batch_size
        made = []
        for start in range(0, max(count, 1), size):
            part = slice(start, start + size)
            condition = components.conditioner(numbers[part], texts[part])
            made.append(pipeline(condition, SeededNoise(noise[part], components.device)))
        return np.concatenate(made)

    def _changed(self, guidance: float | None, steps: int | None) -> ImagePipeline:
        wanted = {"guidance.scale": guidance, "sampler.num_steps": steps}
        return self.loaded.pipeline([f"{key}={value}" for key, value in wanted.items() if value is not None])


def load(path: str | Path, device: str | None = None) -> Model:
    """Load a network for sampling.

    Args:
        path: run folder, of which the newest intact weights are taken, or a weights file.
        device: "cpu", "cuda" or "cuda:N"; by default a GPU where there is one.

    Raises:
        CheckpointError: if there are no weights, or they do not belong to the run's config.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    return Model(open_weights(Path(path), device))


def open_source(argument: str) -> NetworkSource:
    """Return a network as a source of the benchmark.

    Args:
        argument: run folder or weights file, then overrides of sampler.*, guidance.* and eval.*, as on a command line.

    Raises:
        UserError: see `load`, and `nanogen.pipeline.Loaded.pipeline`.
    """
    path, *overrides = shlex.split(argument) or [""]
    model = load(path)
    loaded, pipeline = model.loaded, model.loaded.pipeline(overrides)
    source = NetworkSource(pipeline, f"{Path(path).resolve().name}, step {loaded.step}")
    facts = request_facts(pipeline.config, pipeline.components)
    if facts["num_classes"] is not None:
        facts["sampling"] = facts["sampling"].model_copy(update={"noise": pipeline.config.noise})
    source.facts = {**facts, "step": loaded.step, "checkpoint_digest": source.digest}
    return source


def _numbers(what: str, given: Sequence[int] | None, end: int) -> list[int]:
    """Return whole numbers below `end` as a list."""
    try:
        numbers = [operator.index(one) for one in ([] if given is None else given)]
    except TypeError:
        raise RequestError(f"{what} must be whole numbers, one for each image.") from None
    if wrong := [number for number in numbers if not 0 <= number < end]:
        raise RequestError(f"{what} must lie in 0..{end - 1}, found {wrong[0]}.")
    return numbers
