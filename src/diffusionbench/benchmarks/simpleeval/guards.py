"""Guards: numbers printed with every score that show the known ways to inflate it. They never change the score.

A guard is raised where its effect is above the threshold and more than three standard errors from it being none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from diffusionbench.benchmarks.simpleeval import credit
from diffusionbench.benchmarks.simpleeval.credit import Tally
from diffusionbench.benchmarks.simpleeval.variety import Variety, entropy

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
NEAR_COPIES: Final = 0.02
ENTROPY: Final = 0.5
UNKNOWN: Final = "no honest generator was measured to compare with"


@dataclass(frozen=True)
class Guard:
    """One guard's outcome.

    Attributes:
        key: "G1" to "G10"; there is no G6.
        name: one word.
        value: the effect, less its reference value; None where it was not measured.
        z: effect over its standard error, where it has one.
        flagged: whether it is raised.
        note: why there is no value, or what was found.
    """

    key: str
    name: str
    value: float | None
    z: float | None = None
    flagged: bool = False
    note: str = ""


@dataclass(frozen=True)
class References:
    """What honest generators show, measured once and frozen with the version of a world."""

    clean: float
    split: float
    variety: float


@dataclass(frozen=True)
class Evidence:
    """What the guards need beside the answers; whatever is None or empty leaves its guard unmeasured.

    Attributes:
        public: score and standard error of the same generator on `public-0`.
        variety: of the images.
        again: mean absolute differences of regenerated images, by `<prompt id>/<k>`.
        networks: every pretrained network the generator uses, as declared.
        relatives: words that mark a network as kin of one of the scorers.
    """

    public: tuple[float, float] | None = None
    variety: Variety | None = None
    again: Mapping[str, float] = field(default_factory=dict)
    networks: Sequence[str] | None = None
    relatives: Sequence[str] = ()


def run(result: Tally, chosen: Sequence[int], references: References | None, evidence: Evidence) -> tuple[Guard, ...]:
    """All guards of one result.

    Args:
        result: the answers.
        chosen: indices of the headline families.
        references: of this world; None where no honest generator was measured yet.
        evidence: what else is known.
    """
    weights = np.concatenate([np.ones((1, len(result.blocks))), credit.resampling(result)])
    score, prompts = _score(result, "joint", weights, chosen), result.prompt_set
    return (
        _gap("G1", "seed", *_against(evidence.public, score), "no score on public-0 beside a bound or sealed one"),
        _paraphrase(result, chosen),
        _clean(result, weights, chosen, score, references),
        _mirror(result, weights),
        _split(result, weights, chosen, references),
        _sampled("G7", "probe", _probe(result, weights)),
        _variety(result, references, evidence.variety),
        regeneration(evidence.again, num_regenerated(len(prompts.prompts) * prompts.images_per_prompt)),
        _kinship(evidence),
    )


def _clean(
    result: Tally, weights: np.ndarray, chosen: Sequence[int], score: np.ndarray, references: References | None
) -> Guard:
    if references is None:
        return Guard("G3", "clean", None, note=UNKNOWN)
    return _sampled("G3", "clean", _score(result, "clean", weights, chosen) - score - references.clean)


def _split(result: Tally, weights: np.ndarray, chosen: Sequence[int], references: References | None) -> Guard:
    if references is None:
        return Guard("G5", "split", None, note=UNKNOWN)
    gap = _score(result, "A", weights, chosen) - _score(result, "B", weights, chosen)
    return _sampled("G5", "split", gap - references.split, both_ways=True)


def _score(result: Tally, name: str, weights: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    values = credit.pair_credit(result.right[name], result.options)
    return credit.headline(credit.by_cell(result, values, weights), chosen)


def _gap(
    key: str, name: str, value: float | None, stderr: float | None, missing: str, both_ways: bool = False
) -> Guard:
    if value is None or not np.isfinite(value):
        return Guard(key, name, None, note=missing)
    size = abs(value) if both_ways else value
    z = value / stderr if stderr else (0.0 if value == 0 else float(np.sign(value)) * np.inf)
    return Guard(key, name, float(value), float(z), bool(size > THRESHOLDS[name] and abs(z) > SIGMAS))


def _sampled(key: str, name: str, values: np.ndarray, both_ways: bool = False) -> Guard:
    """A guard from its value (first) and its bootstrap replicates."""
    stderr = float(np.nanstd(values[1:], ddof=1)) if np.isfinite(values[1:]).sum() > 1 else None
    return _gap(key, name, float(values[0]), stderr, "nothing to compare", both_ways)


def _against(other: tuple[float, float] | None, score: np.ndarray) -> tuple[float | None, float | None]:
    """Their score minus ours, and the standard error of that."""
    if other is None:
        return None, None
    return other[0] - float(score[0]), float(np.hypot(other[1], np.std(score[1:], ddof=1)))


def _paraphrase(result: Tally, chosen: Sequence[int]) -> Guard:
    """T0 blocks against the paraphrases, cell by cell; cells vary, because one may hold but two blocks."""
    values = credit.pair_credit(result.right["joint"], result.options)
    plain = np.asarray([result.prompt_set.block(int(b))[0].template == "T0" for b in result.blocks])
    gaps = []
    for cell in np.unique(result.cells):
        rows = result.cells == cell
        if (rows & plain).any() and (rows & ~plain).any():
            counted = np.isin(result.families[rows][0], chosen)
            gap = values[rows & plain].mean(axis=0) - values[rows & ~plain].mean(axis=0)
            gaps.append(gap[counted].mean() if counted.any() else np.nan)
    gaps = [gap for gap in gaps if np.isfinite(gap)]
    if len(gaps) < 2:
        return Guard("G2", "paraphrase", None, note="no cell has both phrasings")
    stderr = float(np.std(gaps, ddof=1) / np.sqrt(len(gaps)))
    return _gap("G2", "paraphrase", float(np.mean(gaps)), stderr, "")


def _mirror(result: Tally, weights: np.ndarray) -> Guard:
    """Rendered words do not read in a mirror; places swap in one, so relation and binding are left out."""
    names = [name for name in result.prompt_set.families if name not in ("relation", "binding")]
    chosen = [result.prompt_set.families.index(name) for name in names]
    gap = credit.by_cell(result, result.upright - result.mirror, weights)
    return _sampled("G4", "mirror", credit.headline(gap, chosen))


def _probe(result: Tally, weights: np.ndarray) -> np.ndarray:
    single = credit.by_cell(result, credit.single_credit(result.right["joint"], result.options), weights)
    gap = single - credit.held_by_cell(result, result.probes, weights)
    return credit.mean_of(credit.mean_of(gap))


def _variety(result: Tally, references: References | None, found: Variety | None) -> Guard:
    if found is None or references is None:
        return Guard("G8", "variety", None, note=UNKNOWN if references is None else "needs two images a prompt")
    spread = min((entropy(counts) for counts in result.free.values()), default=1.0)
    relative = found.ratio / references.variety
    flagged = relative < 0.5 or found.near_copies > NEAR_COPIES or spread < ENTROPY
    note = f"near-copies in {found.near_copies:.1%} of prompts, entropy of free facts {spread:.2f}"
    return Guard("G8", "variety", relative, flagged=flagged, note=note)


def num_regenerated(images: int) -> int:
    """How many of a set's images are sampled again: 2 %."""
    return max(1, round(images / REGENERATED))


def regeneration(again: Mapping[str, float], needed: int) -> Guard:
    """G9: whether images that were sampled again are the same ones.

    Args:
        again: mean absolute differences by image.
        needed: how many make a measurement.
    """
    good = sum(difference <= SAME for difference in again.values())
    note = f"{good}/{len(again)}"
    if good < len(again):
        return Guard("G9", "regen", good / len(again), flagged=True, note=note)
    if len(again) < needed:
        return Guard("G9", "regen", None, note=f"{len(again)} of {needed} images were sampled again")
    return Guard("G9", "regen", 1.0, note=note)


def _kinship(evidence: Evidence) -> Guard:
    if evidence.networks is None:
        return Guard("G10", "kinship", None, note="the generator's networks were not declared")
    kin = [name for name in evidence.networks if any(word in name.lower() for word in evidence.relatives)]
    return Guard("G10", "kinship", float(len(kin)), flagged=bool(kin), note=", ".join(kin))
