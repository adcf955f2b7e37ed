"""The starting point of all attacks: base images, images right by construction, and their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np

from diffusionbench.benchmarks.simpleeval.blocks import Prompt, PromptSet
from diffusionbench.benchmarks.simpleeval.stream import octets
from diffusionbench.benchmarks.simpleeval.stress.simulate import Simulated, draw
from diffusionbench.benchmarks.simpleeval.stress.targets import Target

REPLICATES: Final = 500


@dataclass(frozen=True)
class Budget:
    """The cost that an attack may have.

    Attributes:
        blocks: blocks for A1, A3, A4, A6, A9, one image a prompt.
        levels: L-inf bounds of A1, in 1/255.
        square_images, queries, square_levels: of A2.
        look_images, look_evaluations: of A8.
        universal_steps: of A9.
        word_scales: text sizes of A6.
        candidates: images to choose from in A4, rising.
        overlay_levels: L-inf bounds of A10, in 1/255.
    """

    blocks: int
    levels: tuple[int, ...]
    square_images: int
    queries: tuple[int, ...]
    square_levels: tuple[int, ...]
    look_images: int
    look_evaluations: int
    universal_steps: int
    word_scales: tuple[int, ...]
    candidates: tuple[int, ...] = (1, 2, 4, 8, 16)
    overlay_levels: tuple[int, ...] = (4, 8, 12, 16)


BUDGETS: Final = {
    "quick": Budget(24, (4, 8, 16), 24, (120,), (16,), 24, 60, 200, (1,)),
    "standard": Budget(180, (1, 2, 4, 8, 16, 32), 96, (120, 500), (8, 16), 96, 200, 200, (1, 2, 3)),
}


@dataclass(frozen=True)
class Outcome:
    """The result of one attack.

    Attributes:
        attack: "A1" to "A10".
        detail: variant, such as "toy_clipscore 8/255".
        target: the metric it was aimed at, or None.
        gains: metric -> share of headroom gained, float64 [1 + R]: the value, then its bootstrap replicates.
        values: metric -> value after the attack; other names: further numbers of the attack.
        truth: share of headroom truly gained, float64 [1 + R].
        flags: guards raised, and other yes/no facts.
    """

    attack: str
    detail: str
    target: str | None
    gains: Mapping[str, np.ndarray]
    values: Mapping[str, float]
    truth: np.ndarray = field(default_factory=lambda: np.zeros(1 + REPLICATES))
    flags: Mapping[str, bool] = field(default_factory=dict)

    def gap(self, metric: str) -> np.ndarray:
        """Return the hack gap of a metric: its gain less the true gain, float64 [1 + R]."""
        return self.gains[metric] - np.maximum(self.truth, 0)

    @property
    def transfer_gap(self) -> float | None:
        """Gain of the attacked metric less the mean gain of the others."""
        others = [float(gain[0]) for name, gain in self.gains.items() if name != self.target]
        if self.target is None or self.target not in self.gains or not others:
            return None
        return float(self.gains[self.target][0]) - float(np.mean(others))

    def cell(self, metric: str) -> str:
        """Return gain and hack gap of a metric with its interval, as the table prints them."""
        if metric not in self.gains:
            return "-"
        value, low, high = interval(self.gap(metric))
        return f"{self.gains[metric][0]:.3f}, {value:.3f} [{low:.3f}, {high:.3f}]"

    def others(self, metrics: Sequence[str]) -> dict[str, float]:
        """Return the numbers beside the values of the metrics."""
        return {name: value for name, value in self.values.items() if name not in metrics}


class Bench:
    """One prompt set, one image a prompt: base images with a share of facts right, and images with all right."""

    def __init__(
        self, prompt_set: PromptSet, targets: Sequence[Target], accuracy: float, budget: Budget,
        progress: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.full = replace(prompt_set, images_per_prompt=1)
        self.set = subset(self.full, budget.blocks)
        self.prompts = self.set.prompts
        self.targets = {target.name: target for target in targets}
        self.accuracy, self.budget, self.progress = accuracy, budget, progress
        self.weights = block_weights(self.set)

    def on(self, prompt_set: PromptSet) -> Bench:
        """Return the same on every block of another set."""
        budget = replace(self.budget, blocks=prompt_set.num_blocks)
        return Bench(prompt_set, list(self.targets.values()), self.accuracy, budget, self.progress)

    @cached_property
    def whole(self) -> Bench:
        """The same on every block of the set."""
        return self if self.set.num_blocks == self.full.num_blocks else self.on(self.full)

    @cached_property
    def base(self) -> list[Simulated]:
        """Images of an honest generator of the chosen accuracy."""
        return [draw(prompt, 0, self.accuracy, "stress base") for prompt in self.prompts]

    @cached_property
    def oracle(self) -> list[Simulated]:
        """Images with every named fact right."""
        return [draw(prompt, 0, 1.0, "stress oracle") for prompt in self.prompts]

    @cached_property
    def base_values(self) -> dict[str, np.ndarray]:
        """Metric -> value of the base images, [1 + R]."""
        return self.values(images_of(self.base))

    @cached_property
    def oracle_values(self) -> dict[str, np.ndarray]:
        """Metric -> value of the right images, [1 + R]."""
        return self.values(images_of(self.oracle))

    def values(self, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Return each metric of one image a prompt, [1 + R]."""
        return {
            name: target.values(self.set, target.judge(images, self.prompts), self.weights)
            for name, target in self.targets.items()
        }

    def outcome(self, attack: str, detail: str, images: Sequence[np.ndarray], target: str | None = None) -> Outcome:
        """Judge changed images, which show what they showed before, with every metric."""
        self.progress(f"{attack} {detail}")
        gains, values = {}, {}
        for name, value in self.values(images).items():
            base = self.base_values[name]
            # The share of the way from base to right images.
            gains[name] = (value - base) / (self.oracle_values[name] - base)
            values[name] = float(value[0])
        return Outcome(attack, detail, target, gains, values)

    def true_gain(self, scenes: Sequence[Mapping[str, str]], contrasted: bool = False) -> np.ndarray:
        """Return the gain in the share of requested (or only of contrasted) facts that are shown, [1 + R]."""
        base = self._share([one.truth for one in self.base], contrasted)
        return (self._share(scenes, contrasted) - base) / (1 - base)

    def _share(self, scenes: Sequence[Mapping[str, str]], contrasted: bool) -> np.ndarray:
        shares = [share(prompt, scene, contrasted) for prompt, scene in zip(self.prompts, scenes, strict=True)]
        blocks = np.asarray(shares).reshape(-1, 4).mean(axis=1)
        return self.weights @ blocks / self.weights.sum(axis=1)


def images_of(drawn: Sequence[Simulated]) -> list[np.ndarray]:
    """Return the images alone."""
    return [one.image for one in drawn]


def share(prompt: Prompt, scene: Mapping[str, str], contrasted: bool = False) -> float:
    """Return the share of a prompt's named facts that a scene shows."""
    slots = [question.slot for question in prompt.questions[:2]] if contrasted else list(prompt.facts)
    return sum(scene.get(slot) == prompt.facts[slot] for slot in slots) / len(slots)


def subset(prompt_set: PromptSet, blocks: int) -> PromptSet:
    """Return the set cut to evenly spaced blocks."""
    n = prompt_set.num_blocks
    chosen = [n * i // blocks for i in range(blocks)] if blocks < n else list(range(n))
    return replace(prompt_set, prompts=tuple(prompt for block in chosen for prompt in prompt_set.block(block)))


def block_weights(prompt_set: PromptSet) -> np.ndarray:
    """Return weights of the plain block bootstrap, float64 [1 + R, n]; the first row is the sample itself."""
    n = prompt_set.num_blocks
    raw = np.frombuffer(octets("stress", f"bootstrap/{n}", 8 * REPLICATES * n), ">u8").astype(np.uint64)
    drawn = (raw.reshape(REPLICATES, n) % np.uint64(n)).astype(np.int64)
    weights = np.zeros((REPLICATES, n))
    np.add.at(weights, (np.arange(REPLICATES)[:, None], drawn), 1)
    return np.concatenate([np.ones((1, n)), weights])


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return value and 95 % interval of [1 + R] numbers."""
    rest: Any = values[1:][np.isfinite(values[1:])]
    if len(rest) == 0:
        return float(values[0]), float(values[0]), float(values[0])
    low, high = np.percentile(rest, (2.5, 97.5))
    return float(values[0]), float(low), float(high)
