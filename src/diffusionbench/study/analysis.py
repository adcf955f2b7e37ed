"""What a correlation over methods is made of: families, single methods, the range chosen, and metric noise.

A pooled coefficient answers "does x predict y over these methods"; the parts here say how much of the answer is the
contrast between families, how much hangs on one method, and how much noise alone would hide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from diffusionbench.catalog import direction
from diffusionbench.record import Record, Value
from diffusionbench.study import published
from diffusionbench.study.correlate import (
    DRAWS,
    Coefficient,
    Line,
    block_sizes,
    fit_line,
    kendall,
    partial,
    pearson,
    spearman,
)
from diffusionbench.study.points import Point, Selection, merge_e2e, subject

TOP: Final = (5, 10, 15, 20)


@dataclass(frozen=True)
class Part:
    """A coefficient of a named subset: one family, everyone without a family, or the best k."""

    name: str
    coefficient: Coefficient


@dataclass(frozen=True)
class Between:
    """The contrast between families: Pearson's r of family means, each weighted by its number of methods.

    Attributes:
        families: number of families.
        value: r, or None for fewer than 3 families or equal means.
        share: part of the pooled covariance that lies between families; below 0 or above 1 where the two parts
            have opposite signs. None for fewer than 2 families or where the pooled covariance is 0.
    """

    families: int
    value: float | None
    share: float | None


@dataclass(frozen=True)
class Influence:
    """Pearson's r without one method, and how far that moves it (None where it is not defined)."""

    name: str
    without: float | None
    change: float | None


@dataclass(frozen=True)
class Noise:
    """Standard deviation of one scoring of a metric.

    Attributes:
        sd: in the metric's unit.
        source: how it is known.
    """

    sd: float
    source: str


@dataclass(frozen=True)
class Attenuation:
    """What metric noise alone does to Pearson's r.

    Attributes:
        scope: "pooled" or "within families".
        reliability_x, reliability_y: 1 - noise^2 / variance over methods; 1 where no noise is known.
        ceiling: sqrt of their product: the |r| that a perfect linear relation would show. None where noise exceeds
            the spread of the methods.
        corrected: r / ceiling, the estimate free of noise; values beyond 1 say that noise or n explain the excess.
        rescored_sd: standard deviation of r over drawn re-scorings of the same methods (pooled only).
    """

    scope: str
    reliability_x: float
    reliability_y: float
    ceiling: float | None
    corrected: float | None
    rescored_sd: float | None


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything `correlate` prints about one pair of metrics."""

    selection: Selection
    separate_e2e: bool
    pearson: Coefficient
    spearman: Coefficient
    kendall: Coefficient
    line: Line | None
    per_family: tuple[Part, ...]
    within: Coefficient
    between: Between
    without_family: tuple[Part, ...]
    influence: tuple[Influence, ...]
    top: tuple[Part, ...]
    noise_x: Noise | None
    noise_y: Noise | None
    attenuation: tuple[Attenuation, ...]
    draws: int
    seed: int


def rescoring_noise(key: str, records: Iterable[Record] | None = None) -> Noise | None:
    """Noise of one scoring, from the two published sets: sd of the differences over the same methods, over sqrt 2.

    Args:
        key: metric key.
        records: where to look; the published records by default.

    Returns:
        None where the two sets do not hold the metric twice, or hold copies of one scoring (FID).
    """
    scores: dict[str, dict[str, float]] = {published.PAPER: {}, published.BLOG: {}}
    for record in published.records() if records is None else records:
        if key in record.values and record.kind == "published" and record.protocol.name in scores:
            name = f"{subject(record)} {record.protocol.guidance}"
            scores[record.protocol.name][name] = record.values[key].value
    paper, blog = scores[published.PAPER], scores[published.BLOG]
    shared = sorted(paper.keys() & blog.keys())
    differences = np.array([paper[name] - blog[name] for name in shared])
    if len(shared) < 3 or not differences.any():
        return None
    sd = float(differences.std(ddof=1) / math.sqrt(2))
    return Noise(sd, f"{len(shared)} methods scored twice ({published.BLOG}, {published.PAPER})")


def _noise(key: str, values: Sequence[Value]) -> Noise | None:
    """From the records' own standard errors where all have one, else from the published re-scoring."""
    errors = [value.stderr for value in values if value.stderr is not None]
    if values and len(errors) == len(values):
        return Noise(float(np.sqrt(np.mean(np.square(errors)))), "root mean square of the records' standard errors")
    return rescoring_noise(key)


def analyse(
    selection: Selection,
    *,
    separate_e2e: bool = False,
    draws: int = DRAWS,
    seed: int = 0,
    top: Sequence[int] = TOP,
) -> Study:
    """Take the correlation of a selection apart.

    Args:
        selection: points of one score set.
        separate_e2e: whether end-to-end VAEs are a family of their own; else they count as VAEs.
        draws, seed: of bootstrap, permutations and re-scorings.
        top: sizes of the subsets of methods that are best on x.
    """
    points = selection.points
    x, y = np.array([p.x for p in points]), np.array([p.y for p in points])
    labels = np.array([merge_e2e(p.family, separate_e2e) or "not stated" for p in points], dtype=object)
    names = list(dict.fromkeys(labels))

    def part(name: str, mask: np.ndarray) -> Part:
        return Part(name, pearson(x[mask], y[mask], draws=draws, seed=seed))

    pooled = pearson(x, y, draws=draws, seed=seed)
    within = partial(x, y, list(labels), draws=draws, seed=seed)
    noise_x = _noise(selection.x_key, [p.x_value for p in points])
    noise_y = _noise(selection.y_key, [p.y_value for p in points])
    return Study(
        selection=selection,
        separate_e2e=separate_e2e,
        pearson=pooled,
        spearman=spearman(x, y, draws=draws, seed=seed),
        kendall=kendall(x, y, draws=draws, seed=seed),
        line=fit_line(x, y),
        per_family=tuple(part(name, labels == name) for name in names),
        within=within,
        between=_between(x, y, labels),
        without_family=tuple(part(name, labels != name) for name in names) if len(names) > 1 else (),
        influence=_influence(points, x, y, pooled),
        top=_top(selection, x, y, top, draws, seed),
        noise_x=noise_x,
        noise_y=noise_y,
        attenuation=_attenuation(x, y, labels, pooled, within, noise_x, noise_y, draws, seed),
        draws=draws,
        seed=seed,
    )


def _between(x: np.ndarray, y: np.ndarray, labels: np.ndarray) -> Between:
    names = list(dict.fromkeys(labels))
    if not names:
        return Between(0, None, None)
    weights = np.array([np.count_nonzero(labels == name) for name in names], dtype=float)
    means = np.array([[v[labels == name].mean() for name in names] for v in (x, y)])
    u, v = means - np.array([[x.mean()], [y.mean()]])
    covariance = float((weights * u * v).sum())
    spread = float((weights * u * u).sum()) * float((weights * v * v).sum())
    total = float((x - x.mean()) @ (y - y.mean()))
    scale = np.ptp(x) * np.ptp(y) if len(x) else 0.0
    share = covariance / total if len(names) > 1 and abs(total) > 1e-12 * scale and scale > 0 else None
    defined = len(names) >= 3 and spread > (1e-12 * scale) ** 2 and scale > 0
    return Between(len(names), max(-1.0, min(1.0, covariance / math.sqrt(spread))) if defined else None, share)


def _influence(points: Sequence[Point], x: np.ndarray, y: np.ndarray, pooled: Coefficient) -> tuple[Influence, ...]:
    """Largest change first."""
    found = []
    for index, point in enumerate(points):
        without = pearson(np.delete(x, index), np.delete(y, index), draws=0).value
        change = None if without is None or pooled.value is None else without - pooled.value
        found.append(Influence(point.name, without, change))
    return tuple(sorted(found, key=lambda one: (-abs(one.change or 0.0), one.name)))


def _top(
    selection: Selection, x: np.ndarray, y: np.ndarray, sizes: Sequence[int], draws: int, seed: int
) -> tuple[Part, ...]:
    """The best k on x; methods tied with the k-th are all kept. Nothing where "best" has no meaning."""
    better = direction(selection.x_key, selection.points[0].x_value) if selection.points else None
    if better is None:
        return ()
    goodness = x if better else -x
    found = []
    for size in sizes:
        if 0 < size < len(x):
            chosen = goodness >= np.sort(goodness)[-size]
            found.append(Part(f"best {size}", pearson(x[chosen], y[chosen], draws=draws, seed=seed)))
    return tuple(found)


def _attenuation(
    x: np.ndarray,
    y: np.ndarray,
    labels: np.ndarray,
    pooled: Coefficient,
    within: Coefficient,
    noise_x: Noise | None,
    noise_y: Noise | None,
    draws: int,
    seed: int,
) -> tuple[Attenuation, ...]:
    if (noise_x is None and noise_y is None) or pooled.value is None:
        return ()
    sd_x, sd_y = noise_x.sd if noise_x else 0.0, noise_y.sd if noise_y else 0.0
    rescored = None
    if draws and len(x) >= 4:
        rng = np.random.default_rng(np.random.SeedSequence([seed, 4]))
        drawn = []
        for size in block_sizes(draws, len(x)):
            u = x + sd_x * rng.standard_normal((size, len(x)))
            v = y + sd_y * rng.standard_normal((size, len(x)))
            u, v = u - u.mean(1, keepdims=True), v - v.mean(1, keepdims=True)
            drawn.append((u * v).sum(1) / np.sqrt((u * u).sum(1) * (v * v).sum(1)))
        rescored = float(np.concatenate(drawn).std(ddof=1))
    found = [_scope("pooled", pooled.value, float(x.var(ddof=1)), float(y.var(ddof=1)), sd_x, sd_y, rescored)]
    kept = np.array([np.count_nonzero(labels == label) > 1 for label in labels], dtype=bool)
    groups = set(labels[kept])
    freedom = int(kept.sum()) - len(groups)
    if within.value is not None and len(groups) > 1:
        variances = [
            sum(float(((v[labels == g] - v[labels == g].mean()) ** 2).sum()) for g in groups) / freedom for v in (x, y)
        ]
        found.append(_scope("within families", within.value, variances[0], variances[1], sd_x, sd_y, None))
    return tuple(found)


def _scope(
    name: str, r: float, var_x: float, var_y: float, sd_x: float, sd_y: float, rescored: float | None
) -> Attenuation:
    reliability = [1 - sd**2 / var if var > 0 else -math.inf for var, sd in ((var_x, sd_x), (var_y, sd_y))]
    usable = min(reliability) > 0
    ceiling = math.sqrt(reliability[0] * reliability[1]) if usable else None
    return Attenuation(name, reliability[0], reliability[1], ceiling, r / ceiling if ceiling else None, rescored)
