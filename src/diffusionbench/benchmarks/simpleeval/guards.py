"""Guards: numbers printed with every score that show the known ways to inflate it. They never change the score.

A guard is raised where its effect is above the threshold and more than three standard errors from zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from diffusionbench.benchmarks.simpleeval.answers import (
    SetAnswers,
    by_cell,
    credit_by_cell,
    headline,
    held_by_cell,
    nanmean,
    pair_credit,
    single_credit,
)
from diffusionbench.benchmarks.simpleeval.blocks import PromptSet
from diffusionbench.benchmarks.simpleeval.claims import Claim

SIGMAS: Final = 3.0
THRESHOLDS: Final = {
    "seed": 0.03,
    "paraphrase": 0.04,
    "clean": 0.05,
    "mirror": 0.02,
    "split": 0.06,
    "probe": 0.05,
}
#: One image in so many is sampled again for guard G9; the largest mean difference in 8-bit levels that is still equal.
REGENERATED: Final = 50
SAME: Final = 2.0
#: Bits in which the hashes of near-copies differ at most.
NEAR_BITS: Final = 2
NEAR_COPIES: Final = 0.02
ENTROPY: Final = 0.5
UNKNOWN: Final = "no honest generator was measured to compare with"


@dataclass(frozen=True)
class Guard:
    """One guard's outcome.

    Attributes:
        key: "G1" to "G10"; there is no G6.
        name: one word.
        value: the effect, less its baseline; None where it was not measured.
        z: effect over its standard error, where it has one.
        flagged: whether it is raised.
        note: reason of a missing value, or details.
    """

    key: str
    name: str
    value: float | None
    z: float | None = None
    flagged: bool = False
    note: str = ""

    def facts(self) -> dict[str, Any]:
        """Return all but the key as plain JSON; an effect without spread has a z of 1e6, as JSON has no infinity."""
        z = None if self.z is None else float(np.clip(self.z, -1e6, 1e6))
        return {"name": self.name, "value": self.value, "z": z, "flagged": self.flagged, "note": self.note}

    def __str__(self) -> str:
        """Return name and value as a card prints them."""
        if self.value is None:
            return f"{self.name} -"
        return f"regen {self.note}" if self.name == "regen" else f"{self.name} {self.value:+.3f}{'!' * self.flagged}"


@dataclass(frozen=True)
class Baselines:
    """The effects that honest generators show, measured once and frozen with the version of a world."""

    clean: float
    split: float
    variety: float


@dataclass(frozen=True)
class Variety:
    """How much the images of one prompt differ.

    Attributes:
        ratio: their mean distance over that of images of different prompts; 0 for a collapsed generator.
        near_copies: share of prompts with two images whose hashes differ in at most two bits.
    """

    ratio: float
    near_copies: float


#: Prompt id -> k -> levels float32 [192] and hash bits bool [64] of one image.
Looks = Mapping[str, Mapping[int, tuple[np.ndarray, np.ndarray]]]


def variety(looks: Looks, prompt_set: PromptSet) -> Variety | None:
    """Return the variety over a set, or None with fewer than two images a prompt."""
    within, copies, firsts = [], [], []
    for prompt in prompt_set.prompts:
        images = list(looks.get(prompt.id, {}).values())
        firsts += [levels for levels, _ in images[:1]]
        pairs = [(one, other) for place, one in enumerate(images) for other in images[:place]]
        if pairs:
            within.append(np.mean([np.linalg.norm(one[0] - other[0]) for one, other in pairs]))
            copies.append(any((one[1] != other[1]).sum() <= NEAR_BITS for one, other in pairs))
    # Half a set apart: never twins.
    shift = len(firsts) // 2
    between = [np.linalg.norm(firsts[i] - firsts[i - shift]) for i in range(len(firsts))] if shift else []
    if not within or not between:
        return None
    apart = float(np.mean(between))
    return Variety(float(np.mean(within)) / apart if apart > 0 else 0.0, float(np.mean(copies)))


def entropy(counts: np.ndarray) -> float:
    """Return the entropy of counts over the largest possible, in 0..1; 1 where nothing was counted."""
    total = counts.sum()
    if total == 0:
        return 1.0
    share = counts[counts > 0] / total
    return float(-(share * np.log(share)).sum() / np.log(len(counts)))


def run(
    answers: SetAnswers,
    weights: np.ndarray,
    chosen: Sequence[int],
    baselines: Baselines | None,
    claim: Claim,
    looks: Variety | None = None,
    related_models: Sequence[str] = (),
) -> tuple[Guard, ...]:
    """Return all guards of one result; a missing baseline or fact of the claim leaves its guards unmeasured.

    Args:
        weights: of the blocks, float64 [1 + R, n]: ones, then bootstrap replicates.
        chosen: indices of the headline families.
    """

    def score(name: str) -> np.ndarray:
        return headline(credit_by_cell(answers, name, weights), chosen)

    found, prompts = score("consensus"), answers.prompt_set
    single = by_cell(answers, single_credit(answers.right["consensus"], answers.options), weights)
    probe = nanmean(nanmean(single - held_by_cell(answers, answers.probes, weights)))
    # Rendered words do not read in a mirror; places swap in one, so relation and binding are left out.
    unplaced = [i for i, name in enumerate(prompts.families) if name not in ("relation", "binding")]
    mirror = headline(by_cell(answers, answers.upright - answers.mirror, weights), unplaced)
    seed = Guard("G1", "seed", None, note="no score on public-0 beside a bound or sealed one")
    if claim.public is not None:
        value, stderr = claim.public
        seed = _gap("G1", "seed", value - found[0], float(np.hypot(stderr, np.std(found[1:], ddof=1))))
    clean, split, varied = (
        Guard(key, name, None, note=UNKNOWN) for key, name in (("G3", "clean"), ("G5", "split"), ("G8", "variety"))
    )
    if baselines is not None:
        clean = _sampled("G3", "clean", score("clean") - found - baselines.clean)
        split = _sampled("G5", "split", score("A") - score("B") - baselines.split, both_ways=True)
        varied = _variety(looks, answers, baselines)
    encoders = Guard("G10", "encoders", None, note="the generator's networks were not declared")
    if claim.networks is not None:
        # A scorer can favour images that were made with its own encoder.
        shared = [name for name in claim.networks if any(word in name.lower() for word in related_models)]
        encoders = Guard("G10", "encoders", float(len(shared)), flagged=bool(shared), note=", ".join(shared))
    return (
        seed,
        _paraphrase(answers, chosen),
        clean,
        _sampled("G4", "mirror", mirror),
        split,
        _sampled("G7", "probe", probe),
        varied,
        regeneration(claim.again, num_regenerated(len(prompts.prompts) * prompts.images_per_prompt)),
        encoders,
    )


def _variety(looks: Variety | None, answers: SetAnswers, baselines: Baselines) -> Guard:
    if looks is None:
        return Guard("G8", "variety", None, note="needs two images a prompt")
    spread = min((entropy(counts) for counts in answers.free.values()), default=1.0)
    relative = looks.ratio / baselines.variety
    flagged = relative < 0.5 or looks.near_copies > NEAR_COPIES or spread < ENTROPY
    note = f"near-copies in {looks.near_copies:.1%} of prompts, entropy of free facts {spread:.2f}"
    return Guard("G8", "variety", relative, flagged=flagged, note=note)


def _gap(key: str, name: str, value: float, stderr: float | None, both_ways: bool = False) -> Guard:
    if not np.isfinite(value):
        return Guard(key, name, None, note="nothing to compare")
    size = abs(value) if both_ways else value
    z = value / stderr if stderr else (0.0 if value == 0 else float(np.sign(value)) * np.inf)
    return Guard(key, name, float(value), float(z), bool(size > THRESHOLDS[name] and abs(z) > SIGMAS))


def _sampled(key: str, name: str, values: np.ndarray, both_ways: bool = False) -> Guard:
    """Return a guard from its value (first) and its bootstrap replicates."""
    stderr = float(np.nanstd(values[1:], ddof=1)) if np.isfinite(values[1:]).sum() > 1 else None
    return _gap(key, name, float(values[0]), stderr, both_ways)


def _paraphrase(answers: SetAnswers, chosen: Sequence[int]) -> Guard:
    """Compare T0 blocks with the paraphrases, cell by cell; the error is over cells, as one may hold two blocks."""
    values = pair_credit(answers.right["consensus"], answers.options)
    plain = np.asarray([answers.prompt_set.block(int(b))[0].template == "T0" for b in answers.blocks])
    gaps = []
    for cell in np.unique(answers.cells):
        rows = answers.cells == cell
        counted = np.isin(answers.families[rows][0], chosen)
        if (rows & plain).any() and (rows & ~plain).any() and counted.any():
            gap = values[rows & plain].mean(axis=0) - values[rows & ~plain].mean(axis=0)
            gaps.append(gap[counted].mean())
    if len(gaps) < 2:
        return Guard("G2", "paraphrase", None, note="no cell has both phrasings")
    return _gap("G2", "paraphrase", float(np.mean(gaps)), float(np.std(gaps, ddof=1) / np.sqrt(len(gaps))))


def num_regenerated(images: int) -> int:
    """Return how many of a set's images are sampled again: 2 %."""
    return max(1, round(images / REGENERATED))


def regeneration(again: Mapping[str, float], needed: int) -> Guard:
    """Return G9 from the differences of images that were sampled again, of which `needed` make a measurement."""
    good = sum(difference <= SAME for difference in again.values())
    note = f"{good}/{len(again)}"
    if good < len(again):
        return Guard("G9", "regen", good / len(again), flagged=True, note=note)
    if len(again) < needed:
        return Guard("G9", "regen", None, note=f"{len(again)} of {needed} images were sampled again")
    return Guard("G9", "regen", 1.0, note=note)
