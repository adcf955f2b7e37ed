"""Pair credit: a twin pair counts where both images are answered right, against the chance of that.

c = q(p0) q(p1) over the K images of two prompts that differ in one fact; S = (c - 1/M^2) / (1 - 1/M^2), averaged over
cells (family, stratum), strata and families. A generator that does not look at its prompt has E[S] <= 0, whatever the
bias of the scorer, because the two levels are a uniform ordered pair of the option set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from diffusionbench.benchmarks.simpleeval.answers import Panel, agreed, joint
from diffusionbench.benchmarks.simpleeval.blocks import PromptSet
from diffusionbench.benchmarks.simpleeval.stream import octets
from diffusionbench.errors import DataError

REPLICATES: Final = 2000
STRATA: Final = ("easy", "medium", "hard")
#: Twins (as indices into the block) that differ in contrast 0, and in contrast 1 alone.
PAIRS: Final = (((0, 2), (1, 3)), ((0, 1), (2, 3)))

Votes = Mapping[str, Sequence[np.ndarray | None]]


@dataclass(frozen=True)
class Tally:
    """Answers of a whole set as arrays over its n scored blocks, four twins, K images and two contrasts.

    Attributes:
        prompt_set: what was asked.
        blocks: indices of the scored blocks.
        right: "joint", "A", "B" or "clean" -> bool [n, 4, K, 2]; clean is both scorers on the undamaged image.
        upright, mirror: share of right answers over scorers and views of that kind, float64 [n, 2].
        options: number of options M, int64 [n, 2].
        families: index into the set's families, int64 [n, 2].
        strata: index into `STRATA`, int64 [n].
        cells: index of (type, stratum), int64 [n].
        held: chance-corrected accuracy on held questions by family, float64 [n, F], NaN where none was asked.
        probes: the same over those questions alone that offer as many options as the contrasted ones of the family.
        silence: share of silent answers to contrasted questions.
        kappa: Cohen's kappa of the two scorers' answers, silence being one more answer.
        free: answers on free facts by kind, as counts of each option.
        missing: images without votes, as `<prompt id>/<k>`.
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
    silence: float
    kappa: float
    free: Mapping[str, np.ndarray]
    missing: tuple[str, ...]


def tally(prompt_set: PromptSet, votes: Votes, panel: Panel) -> Tally:
    """Turn votes into right and wrong.

    Args:
        prompt_set: the set.
        votes: prompt id -> K arrays int8 [2, 1 + V, Q] (`answers.py`), None where the image could not be judged.
            A block with a missing image is not scored.
        panel: of the scorer that voted.

    Raises:
        DataError: if no block is complete.
    """
    K = prompt_set.images_per_prompt
    missing = tuple(
        f"{prompt.id}/{k}"
        for prompt in prompt_set.prompts
        for k, one in enumerate(_images(votes, prompt.id, K))
        if one is None
    )
    gone = {identity.split("/")[-3] for identity in missing}
    blocks = [b for b in range(prompt_set.num_blocks) if f"{b:04d}" not in gone]
    if not blocks:
        raise DataError(
            f"no block of the {prompt_set.num_blocks} in set '{prompt_set.seed}' has all its images: "
            f"{len(missing)} are missing, the first is {missing[0]}. Make {K} images for every prompt."
        )
    return _Counter(prompt_set, votes, panel, blocks).tally(missing)


def _images(votes: Votes, prompt_id: str, count: int) -> list[np.ndarray | None]:
    have = list(votes.get(prompt_id, ()))[:count]
    return have + [None] * (count - len(have))


class _Counter:
    """The work of `tally`, block by block."""

    def __init__(self, prompt_set: PromptSet, votes: Votes, panel: Panel, blocks: list[int]) -> None:
        n, K, F = len(blocks), prompt_set.images_per_prompt, len(prompt_set.families)
        self.set, self.votes, self.panel, self.blocks = prompt_set, votes, panel, blocks
        self.right = {name: np.zeros((n, 4, K, 2), bool) for name in ("joint", "A", "B", "clean")}
        self.upright, self.mirror = np.zeros((n, 4, K, 2)), np.zeros((n, 4, K, 2))
        self.options, self.families = np.zeros((n, 2), np.int64), np.zeros((n, 2), np.int64)
        # Sum and count of chance-corrected answers by family: [held, probes].
        self.sums, self.counts = np.zeros((2, n, F)), np.zeros((2, n, F))
        self.answers: list[np.ndarray] = []
        self.free: dict[str, np.ndarray] = {}
        self.usual = {
            question.family: len(question.options)
            for prompt in prompt_set.prompts
            for question in prompt.questions
            if not question.held
        }

    def tally(self, missing: tuple[str, ...]) -> Tally:
        names: dict[tuple[str, str], int] = {}
        cells, strata = [], []
        for place, block in enumerate(self.blocks):
            twins = self.set.block(block)
            cells.append(names.setdefault((twins[0].type, twins[0].stratum), len(names)))
            strata.append(STRATA.index(twins[0].stratum))
            for h in (0, 1):
                question = twins[0].questions[h]
                self.options[place, h] = len(question.options)
                self.families[place, h] = self.set.families.index(question.family)
            for twin in range(4):
                for k in range(self.set.images_per_prompt):
                    self._image(place, twin, k)
        asked = np.stack(self.answers)
        with np.errstate(invalid="ignore"):
            held = self.sums / self.counts
        return Tally(
            prompt_set=self.set,
            blocks=np.asarray(self.blocks),
            right=self.right,
            upright=self.upright.mean(axis=(1, 2)),
            mirror=self.mirror.mean(axis=(1, 2)),
            options=self.options,
            families=self.families,
            strata=np.asarray(strata),
            cells=np.asarray(cells),
            held=held[0],
            probes=held[1],
            silence=float((joint(asked.swapaxes(0, 1)) < 0).mean()),
            kappa=kappa(asked[:, 0].ravel(), asked[:, 1].ravel()),
            free=self.free,
            missing=missing,
        )

    def _image(self, place: int, twin: int, k: int) -> None:
        prompt = self.set.block(self.blocks[place])[twin]
        votes = self.votes[prompt.id][k]
        assert votes is not None
        alone = agreed(votes, self.panel.need)
        both = joint(alone)
        wanted = np.asarray([question.answer for question in prompt.questions])
        self.right["joint"][place, twin, k] = (both == wanted)[:2]
        self.right["A"][place, twin, k] = (alone[0] == wanted)[:2]
        self.right["B"][place, twin, k] = (alone[1] == wanted)[:2]
        self.right["clean"][place, twin, k] = (joint(votes[:, 0]) == wanted)[:2]
        mirrored = np.asarray(self.panel.mirrored)
        views = votes[:, 1:, :2] == wanted[:2]
        self.upright[place, twin, k] = views[:, ~mirrored].mean(axis=(0, 1))
        self.mirror[place, twin, k] = views[:, mirrored].mean(axis=(0, 1))
        self.answers.append(alone[:, :2])
        for q, question in enumerate(prompt.questions[2:], start=2):
            if question.answer < 0:
                counts = self.free.setdefault(question.family, np.zeros(len(question.options), np.int64))
                if both[q] >= 0:
                    counts[both[q]] += 1
                continue
            family, chance = self.set.families.index(question.family), 1 / len(question.options)
            value = (float(both[q] == question.answer) - chance) / (1 - chance)
            for row in (0, 1) if len(question.options) == self.usual.get(question.family) else (0,):
                self.sums[row, place, family] += value
                self.counts[row, place, family] += 1


def kappa(first: np.ndarray, second: np.ndarray) -> float:
    """Cohen's kappa of two raters' answers int [n]; 1 where both always say the same one thing."""
    values = np.union1d(first, second)
    observed = float((first == second).mean())
    expected = float(sum((first == value).mean() * (second == value).mean() for value in values))
    return 1.0 if expected == 1.0 else (observed - expected) / (1 - expected)


def pair_credit(right: np.ndarray, options: np.ndarray) -> np.ndarray:
    """Chance-corrected credit of each contrast, mean of its two twin pairs.

    Args:
        right: bool [n, 4, K, 2].
        options: M, int [n, 2].

    Returns:
        float64 [n, 2] in [-1 / (M^2 - 1), 1].
    """
    q = right.mean(axis=2)
    credit = np.stack(
        [np.mean([q[:, i, h] * q[:, j, h] for i, j in PAIRS[h]], axis=0) for h in (0, 1)],
        axis=1,
    )
    chance = 1.0 / options**2
    return (credit - chance) / (1 - chance)


def single_credit(right: np.ndarray, options: np.ndarray) -> np.ndarray:
    """Chance-corrected accuracy of each contrast, float64 [n, 2]; arguments as `pair_credit`."""
    chance = 1.0 / options
    return (right.mean(axis=(1, 2)) - chance) / (1 - chance)


def resampling(result: Tally, replicates: int = REPLICATES) -> np.ndarray:
    """Bootstrap weights of the blocks, float64 [replicates, n]: a pure function of the prompt set.

    Within each cell (type, stratum) of m blocks, m - 1 are drawn with replacement and weigh m / (m - 1) each: the
    plain bootstrap of m would halve the variance where m = 2. A cell with one block left keeps weight 1.

    Source: Rao and Wu 1988, resampling inference with complex survey data.
    """
    cells, n = result.cells, len(result.cells)
    raw = np.frombuffer(octets("bootstrap", result.prompt_set.digest, 8 * replicates * n), ">u8")
    draws = raw.astype(np.uint64).reshape(replicates, n)
    weights = np.ones((replicates, n))
    for cell in np.unique(cells):
        members = np.flatnonzero(cells == cell)
        m = len(members)
        if m == 1:
            continue
        chosen = (draws[:, members[: m - 1]] % np.uint64(m)).astype(np.int64)
        counts = np.zeros((replicates, m))
        np.add.at(counts, (np.arange(replicates)[:, None], chosen), 1)
        weights[:, members] = counts * m / (m - 1)
    return weights


def by_cell(result: Tally, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean over contrasts by family and stratum.

    Args:
        values: float64 [n, 2].
        weights: float64 [R, n].

    Returns:
        float64 [R, F, 3]; NaN where a cell has no block.
    """
    F = len(result.prompt_set.families)
    place = result.families * len(STRATA) + result.strata[:, None]
    top, bottom = np.zeros((2, len(weights), F * len(STRATA)))
    for h in (0, 1):
        member = np.zeros((len(values), F * len(STRATA)))
        member[np.arange(len(values)), place[:, h]] = 1
        top += (weights * values[:, h]) @ member
        bottom += weights @ member
    return _ratio(top, bottom).reshape(len(weights), F, len(STRATA))


def held_by_cell(result: Tally, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """As `by_cell`, for values by family: float64 [n, F] with NaN where nothing was asked."""
    seen = np.isfinite(values)
    filled = np.where(seen, values, 0)
    out = np.full((len(weights), values.shape[1], len(STRATA)), np.nan)
    for stratum in range(len(STRATA)):
        rows = result.strata == stratum
        out[..., stratum] = _ratio(weights[:, rows] @ filled[rows], weights[:, rows] @ seen[rows].astype(float))
    return out


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


def mean_of(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean over what exists (not NaN); NaN where nothing does."""
    seen = np.isfinite(values)
    return _ratio(np.where(seen, values, 0).sum(axis=axis), seen.sum(axis=axis))


def headline(cells: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    """SimpleEval from cells float64 [R, F, 3]: mean over strata, then over the chosen families; float64 [R]."""
    return mean_of(mean_of(cells)[:, list(chosen)])
