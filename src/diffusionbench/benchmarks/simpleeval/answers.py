"""Answers of a whole set, and pair credit: a twin pair counts where both images are right, against the chance of it.

c = q(p0) q(p1) over the K images of two prompts that differ in one fact; S = (c - 1/M^2) / (1 - 1/M^2), averaged over
cells (family, stratum), strata and families. A generator that does not look at its prompt has E[S] <= 0, whatever the
bias of the scorer, because the two levels are a uniform ordered pair of the option set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from diffusionbench.benchmarks.simpleeval.blocks import FREE, Prompt, PromptSet
from diffusionbench.benchmarks.simpleeval.evidence import ABSTAIN, ConsensusRule, consensus, majority, wanted
from diffusionbench.benchmarks.simpleeval.stream import octets
from diffusionbench.errors import DataError

REPLICATES: Final = 2000
STRATA: Final = ("easy", "medium", "hard")
#: Twins (as indices into the block) that differ in contrast 0, and in contrast 1 alone.
PAIRS: Final = (((0, 2), (1, 3)), ((0, 1), (2, 3)))

Predictions = Mapping[str, Sequence[np.ndarray | None]]


@dataclass(frozen=True)
class SetAnswers:
    """Answers of a whole set as arrays over its n scored blocks, four twins, K images and two contrasts.

    Attributes:
        prompt_set: with the questions.
        blocks: indices of the scored blocks.
        right: "consensus", "A", "B" or "clean" -> bool [n, 4, K, 2]; clean is the consensus on the undamaged image.
        upright, mirror: share of right answers over scorers and views of that kind, float64 [n, 2].
        options: number of options M, int64 [n, 2].
        families: index into the set's families, int64 [n, 2].
        strata: index into `STRATA`, int64 [n].
        cells: index of (type, stratum), int64 [n].
        held: chance-corrected accuracy on held questions by family, float64 [n, F], NaN where none was asked.
        probes: the same over those questions alone that offer as many options as the contrasted ones of the family.
        abstained: share of contrasted questions without an answer.
        kappa: Cohen's kappa of the two scorers' answers, abstention being one more answer.
        free: answers on free facts by kind, as counts of each option.
        missing: images without predictions, as `<prompt id>/<k>`.
    """

    prompt_set: PromptSet
    blocks: np.ndarray
    right: Mapping[str, np.ndarray]
    upright: np.ndarray
    mirror: np.ndarray
    options: np.ndarray
    families: np.ndarray
    strata: np.ndarray
    cells: np.ndarray
    held: np.ndarray
    probes: np.ndarray
    abstained: float
    kappa: float
    free: Mapping[str, np.ndarray]
    missing: tuple[str, ...]


def collect_answers(prompt_set: PromptSet, predictions: Predictions, rule: ConsensusRule) -> SetAnswers:
    """Compare predictions with the requested facts.

    Args:
        predictions: prompt id -> K arrays int8 [2, 1 + V, Q] (`evidence.py`), None where the image could not be
            judged. A block with a missing image is not scored.

    Raises:
        DataError: if no block is complete.
    """
    K = prompt_set.images_per_prompt
    blocks, missing = _complete(prompt_set, predictions)
    n, families = len(blocks), prompt_set.families
    right = {name: np.zeros((n, 4, K, 2), bool) for name in ("consensus", "A", "B", "clean")}
    upright, mirror = np.zeros((2, n, 4, K, 2))
    asked: list[np.ndarray] = []
    probed: list[tuple[int, Prompt, np.ndarray]] = []
    mirrored = np.asarray(rule.mirrored)
    for place, twin, k in np.ndindex(n, 4, K):
        prompt = prompt_set.block(blocks[place])[twin]
        found = predictions[prompt.id][k]
        assert found is not None
        alone, requested = majority(found, rule.need), wanted(prompt)
        both = consensus(alone)
        answers = {"consensus": both, "A": alone[0], "B": alone[1], "clean": consensus(found[:, 0])}
        for name, answer in answers.items():
            right[name][place, twin, k] = (answer == requested)[:2]
        views = found[:, 1:, :2] == requested[:2]
        upright[place, twin, k] = views[:, ~mirrored].mean(axis=(0, 1))
        mirror[place, twin, k] = views[:, mirrored].mean(axis=(0, 1))
        asked.append(alone[:, :2])
        probed.append((place, prompt, both[2:]))
    firsts = [prompt_set.block(block)[0] for block in blocks]
    names = list(dict.fromkeys((first.type, first.stratum) for first in firsts))
    both_asked = np.stack(asked)
    held, probes, free = _probes(prompt_set, n, probed)
    return SetAnswers(
        prompt_set=prompt_set,
        blocks=np.asarray(blocks),
        right=right,
        upright=upright.mean(axis=(1, 2)),
        mirror=mirror.mean(axis=(1, 2)),
        options=np.asarray([[len(question.options) for question in first.questions[:2]] for first in firsts]),
        families=np.asarray(
            [[families.index(question.family) for question in first.questions[:2]] for first in firsts]
        ),
        strata=np.asarray([STRATA.index(first.stratum) for first in firsts]),
        cells=np.asarray([names.index((first.type, first.stratum)) for first in firsts]),
        held=held,
        probes=probes,
        abstained=float((consensus(both_asked.swapaxes(0, 1)) < 0).mean()),
        kappa=kappa(both_asked[:, 0].ravel(), both_asked[:, 1].ravel()),
        free=free,
        missing=missing,
    )


def _complete(prompt_set: PromptSet, predictions: Predictions) -> tuple[list[int], tuple[str, ...]]:
    """Return the blocks with all their images, and the names of the missing images."""
    K = prompt_set.images_per_prompt
    have = [[*predictions.get(prompt.id, ()), *[None] * K][:K] for prompt in prompt_set.prompts]
    absent = [(place, k) for place, images in enumerate(have) for k, one in enumerate(images) if one is None]
    missing = tuple(f"{prompt_set.prompts[place].id}/{k}" for place, k in absent)
    blocks = sorted({*range(prompt_set.num_blocks)} - {place // 4 for place, _ in absent})
    if not blocks:
        raise DataError(
            f"no block of the {prompt_set.num_blocks} in set '{prompt_set.seed}' has all its images: "
            f"{len(missing)} are missing, the first is {missing[0]}. Make {K} images for every prompt."
        )
    return blocks, missing


def _probes(
    prompt_set: PromptSet, n: int, probed: Sequence[tuple[int, Prompt, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Return `held`, `probes` and `free` of `SetAnswers` from block, prompt and answers of each image."""
    usual = {one.family: len(one.options) for prompt in prompt_set.prompts for one in prompt.questions[:2]}
    sums, counts = np.zeros((2, 2, n, len(prompt_set.families)))
    free: dict[str, np.ndarray] = {}
    for place, prompt, answers in probed:
        for question, answer in zip(prompt.questions[2:], answers.tolist(), strict=True):
            options = len(question.options)
            if question.answer == FREE:
                tally = free.setdefault(question.family, np.zeros(options, np.int64))
                if answer != ABSTAIN:
                    tally[answer] += 1
                continue
            family, chance = prompt_set.families.index(question.family), 1 / options
            rows = 2 if options == usual.get(question.family) else 1
            sums[:rows, place, family] += (float(answer == question.answer) - chance) / (1 - chance)
            counts[:rows, place, family] += 1
    held, probes = _ratio(sums, counts)
    return held, probes, free


def kappa(first: np.ndarray, second: np.ndarray) -> float:
    """Return Cohen's kappa of two raters' answers int [n]; 1 where both always say the same one thing."""
    values = np.union1d(first, second)
    observed = float((first == second).mean())
    expected = float(sum((first == value).mean() * (second == value).mean() for value in values))
    return 1.0 if expected == 1.0 else (observed - expected) / (1 - expected)


def pair_credit(right: np.ndarray, options: np.ndarray) -> np.ndarray:
    """Return the chance-corrected credit of each contrast, mean of its two twin pairs.

    Args:
        right: bool [n, 4, K, 2].
        options: M, int [n, 2].

    Returns:
        float64 [n, 2] in [-1 / (M^2 - 1), 1].
    """
    q = right.mean(axis=2)
    credit = np.stack([np.mean([q[:, i, h] * q[:, j, h] for i, j in PAIRS[h]], axis=0) for h in (0, 1)], axis=1)
    chance = 1.0 / options**2
    return (credit - chance) / (1 - chance)


def single_credit(right: np.ndarray, options: np.ndarray) -> np.ndarray:
    """Return the chance-corrected accuracy of each contrast, float64 [n, 2]; arguments as `pair_credit`."""
    chance = 1.0 / options
    return (right.mean(axis=(1, 2)) - chance) / (1 - chance)


def resampling(answers: SetAnswers) -> np.ndarray:
    """Return bootstrap weights of the blocks, float64 [REPLICATES, n]: a pure function of the prompt set.

    Within each cell (type, stratum) of m blocks, m - 1 are drawn with replacement and weigh m / (m - 1) each: the
    plain bootstrap of m would halve the variance where m = 2. A cell with one block left keeps weight 1.

    Source: Rao and Wu 1988, resampling inference with complex survey data.
    """
    cells, n = answers.cells, len(answers.cells)
    raw = np.frombuffer(octets("bootstrap", answers.prompt_set.digest, 8 * REPLICATES * n), ">u8")
    draws = raw.astype(np.uint64).reshape(REPLICATES, n)
    weights = np.ones((REPLICATES, n))
    for cell in np.unique(cells):
        members = np.flatnonzero(cells == cell)
        m = len(members)
        if m == 1:
            continue
        chosen = (draws[:, members[: m - 1]] % np.uint64(m)).astype(np.int64)
        counts = np.zeros((REPLICATES, m))
        np.add.at(counts, (np.arange(REPLICATES)[:, None], chosen), 1)
        weights[:, members] = counts * m / (m - 1)
    return weights


def by_cell(answers: SetAnswers, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return weighted means over contrasts by family and stratum.

    Values float64 [n, 2] and weights float64 [R, n] give float64 [R, F, 3], NaN where a cell has no block.
    """
    F = len(answers.prompt_set.families)
    place = answers.families * len(STRATA) + answers.strata[:, None]
    top, bottom = np.zeros((2, len(weights), F * len(STRATA)))
    for h in (0, 1):
        member = np.zeros((len(values), F * len(STRATA)))
        member[np.arange(len(values)), place[:, h]] = 1
        top += (weights * values[:, h]) @ member
        bottom += weights @ member
    return _ratio(top, bottom).reshape(len(weights), F, len(STRATA))


def credit_by_cell(answers: SetAnswers, name: str, weights: np.ndarray) -> np.ndarray:
    """Return `by_cell` of the pair credit of the answers `right[name]`."""
    return by_cell(answers, pair_credit(answers.right[name], answers.options), weights)


def held_by_cell(answers: SetAnswers, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return means as `by_cell` for values by family: float64 [n, F] with NaN where nothing was asked."""
    seen = np.isfinite(values)
    filled = np.where(seen, values, 0)
    out = np.full((len(weights), values.shape[1], len(STRATA)), np.nan)
    for stratum in range(len(STRATA)):
        rows = answers.strata == stratum
        out[..., stratum] = _ratio(weights[:, rows] @ filled[rows], weights[:, rows] @ seen[rows].astype(float))
    return out


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


def nanmean(values: np.ndarray) -> np.ndarray:
    """Return the mean along the last axis over numbers that are not NaN; NaN where there is none."""
    seen = np.isfinite(values)
    return _ratio(np.where(seen, values, 0).sum(axis=-1), seen.sum(axis=-1))


def headline(cells: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    """Return SimpleEval from cells float64 [R, F, 3]: mean over strata, then over the chosen families; float64 [R]."""
    return nanmean(nanmean(cells)[:, list(chosen)])
