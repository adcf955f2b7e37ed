"""Decompose a correlation over methods: by family, without single methods, among the best, and under metric noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from diffusionbench.catalog import direction
from diffusionbench.record import Record, Value, stderr_of
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
from diffusionbench.study.points import Point, Selection, method_key
from diffusionbench.study.seeds import SeedBootstrap, bootstrap_seeds

TOP: Final = (5, 10, 15, 20)


@dataclass(frozen=True)
class SubsetCoefficient:
    """A coefficient over a named subset: one family, all but one family, or the best k."""

    name: str
    coefficient: Coefficient


@dataclass(frozen=True)
class BetweenFamilies:
    """Pearson's r of the family means, each weighted by its number of methods.

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
class LeaveOneOut:
    """Pearson's r without one method, and the change from the pooled r (None where it is not defined)."""

    name: str
    without: float | None
    change: float | None


@dataclass(frozen=True)
class Noise:
    """Standard deviation of one scoring of a metric.

    Attributes:
        sd: in the metric's unit.
        source: where it comes from, as text.
    """

    sd: float
    source: str


@dataclass(frozen=True)
class Attenuation:
    """The effect of metric noise alone on Pearson's r (Spearman 1904, correction for attenuation).

    Attributes:
        scope: "pooled" or "within families".
        reliability_x, reliability_y: 1 - noise^2 / variance over methods; 1 where no noise is known.
        ceiling: sqrt of their product: the |r| that a perfect linear relation would show. None where noise exceeds
            the spread of the methods.
        corrected: r / ceiling, the estimate free of noise; it may exceed 1 by chance.
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
    """The whole analysis of one pair of metrics, as `correlate` prints it; `seeds` where methods were repeated."""

    selection: Selection
    separate_e2e: bool
    pearson: Coefficient
    spearman: Coefficient
    kendall: Coefficient
    line: Line | None
    per_family: tuple[SubsetCoefficient, ...]
    within: Coefficient
    between: BetweenFamilies
    without_family: tuple[SubsetCoefficient, ...]
    influence: tuple[LeaveOneOut, ...]
    top: tuple[SubsetCoefficient, ...]
    noise_x: Noise | None
    noise_y: Noise | None
    attenuation: tuple[Attenuation, ...]
    seeds: SeedBootstrap | None
    draws: int
    seed: int


def rescoring_noise(key: str, records: Iterable[Record] | None = None) -> Noise | None:
    """Return the noise of one scoring, from the two published sets: sd of the differences per method, over sqrt 2.

    Args:
        key: metric key.
        records: where to look; the published records by default.

    Returns:
        None where the two sets do not hold the metric twice, or hold copies of one scoring (FID).
    """
    scores: dict[str, dict[str, float]] = {published.PAPER: {}, published.BLOG: {}}
    for record in published.records() if records is None else records:
        if key in record.values and record.kind == "published" and record.protocol.name in scores:
            name = f"{method_key(record)} {record.protocol.guidance}"
            scores[record.protocol.name][name] = record.values[key].value
    paper, blog = scores[published.PAPER], scores[published.BLOG]
    shared = sorted(paper.keys() & blog.keys())
    differences = np.array([paper[name] - blog[name] for name in shared])
    if len(shared) < 3 or not differences.any():
        return None
    sd = float(differences.std(ddof=1) / math.sqrt(2))
    return Noise(sd, f"{len(shared)} methods scored twice ({published.BLOG}, {published.PAPER})")


def _noise(key: str, values: Sequence[Value]) -> Noise | None:
    """Return the noise by the records' own standard errors where all have one, else by the published re-scoring."""
    errors = [error for value in values if (error := stderr_of(value)) is not None]
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
    """Return the correlation of a selection with its decomposition.

    Args:
        selection: points of one score set.
        separate_e2e: make end-to-end VAEs a family of their own; else they count as VAEs.
        draws, seed: of bootstrap, permutations and re-scorings.
        top: sizes of the subsets of methods that are best on x.
    """
    points = selection.points
    x, y = np.array([p.x for p in points]), np.array([p.y for p in points])
    merged: dict[str | None, str | None] = {} if separate_e2e else {"e2e-vae": "vae"}
    labels = np.array([merged.get(p.family, p.family) or "not stated" for p in points], dtype=object)
    names = list(dict.fromkeys(labels))

    def part(name: str, mask: np.ndarray) -> SubsetCoefficient:
        return SubsetCoefficient(name, pearson(x[mask], y[mask], draws=draws, seed=seed))

    pooled = pearson(x, y, draws=draws, seed=seed)
    within = partial(x, y, list(labels), draws=draws, seed=seed)
    noise_x = _noise(selection.x_key, [p.x_value for p in points])
    noise_y = _noise(selection.y_key, [p.y_value for p in points])
    influence = []
    for index, point in enumerate(points):
        without = pearson(np.delete(x, index), np.delete(y, index), draws=0).value
        change = None if without is None or pooled.value is None else without - pooled.value
        influence.append(LeaveOneOut(point.name, without, change))
    better = direction(selection.x_key, points[0].x_value) if points else None
    goodness = x if better else -x
    sizes = [size for size in top if better is not None and 0 < size < len(x)]
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
        influence=tuple(sorted(influence, key=lambda one: (-abs(one.change or 0.0), one.name))),
        # Ties with the k-th best are kept.
        top=tuple(part(f"best {size}", goodness >= np.sort(goodness)[-size]) for size in sizes),
        noise_x=noise_x,
        noise_y=noise_y,
        attenuation=tuple(_attenuation(x, y, labels, (pooled.value, within.value), (noise_x, noise_y), draws, seed)),
        seeds=seeds_of(points, draws, seed),
        draws=draws,
        seed=seed,
    )


def seeds_of(points: Sequence[Point], draws: int, seed: int = 0) -> SeedBootstrap | None:
    """Return r with its interval over methods and seeds; None where no method was repeated."""
    if not any(len(runs) > 1 for point in points for runs in (point.x_runs, point.y_runs)):
        return None
    return bootstrap_seeds([p.x_runs for p in points], [p.y_runs for p in points], draws=draws, seed=seed)


def _between(x: np.ndarray, y: np.ndarray, labels: np.ndarray) -> BetweenFamilies:
    names = list(dict.fromkeys(labels))
    if not names:
        return BetweenFamilies(0, None, None)
    weights = np.array([np.count_nonzero(labels == name) for name in names], dtype=float)
    means = np.array([[v[labels == name].mean() for name in names] for v in (x, y)])
    u, v = means - np.array([[x.mean()], [y.mean()]])
    covariance = float((weights * u * v).sum())
    spread = float((weights * u * u).sum()) * float((weights * v * v).sum())
    total = float((x - x.mean()) @ (y - y.mean()))
    scale = np.ptp(x) * np.ptp(y) if len(x) else 0.0
    share = covariance / total if len(names) > 1 and abs(total) > 1e-12 * scale and scale > 0 else None
    defined = len(names) >= 3 and spread > (1e-12 * scale) ** 2 and scale > 0
    return BetweenFamilies(len(names), max(-1.0, min(1.0, covariance / math.sqrt(spread))) if defined else None, share)


def _attenuation(
    x: np.ndarray,
    y: np.ndarray,
    labels: np.ndarray,
    coefficients: tuple[float | None, float | None],
    noise: tuple[Noise | None, Noise | None],
    draws: int,
    seed: int,
) -> Iterator[Attenuation]:
    """Yield the effect of noise on the pooled coefficient, and on the one within families where it is another."""
    pooled, within = coefficients
    if pooled is None or noise == (None, None):
        return
    sds = [one.sd if one else 0.0 for one in noise]
    rescored_sd = None
    if draws > 1 and len(x) > 3:
        rng = np.random.default_rng(np.random.SeedSequence([seed, 4]))
        drawn = []
        for size in block_sizes(draws, len(x)):
            u, v = (values + sd * rng.standard_normal((size, len(x))) for values, sd in zip((x, y), sds, strict=True))
            u, v = u - u.mean(1, keepdims=True), v - v.mean(1, keepdims=True)
            drawn.append((u * v).sum(1) / np.sqrt((u * u).sum(1) * (v * v).sum(1)))
        rescored_sd = float(np.concatenate(drawn).std(ddof=1))
    yield _scope("pooled", pooled, (float(x.var(ddof=1)), float(y.var(ddof=1))), sds, rescored_sd)
    kept = np.array([np.count_nonzero(labels == label) > 1 for label in labels], dtype=bool)
    groups = set(labels[kept])
    freedom = int(kept.sum()) - len(groups)
    if within is not None and len(groups) > 1:
        var_x, var_y = (
            sum(float(((v[labels == g] - v[labels == g].mean()) ** 2).sum()) for g in groups) / freedom for v in (x, y)
        )
        yield _scope("within families", within, (var_x, var_y), sds, None)


def _scope(
    name: str, r: float, variances: tuple[float, float], sds: Sequence[float], rescored_sd: float | None
) -> Attenuation:
    x, y = (1 - sd**2 / var if var > 0 else -math.inf for var, sd in zip(variances, sds, strict=True))
    ceiling = math.sqrt(x * y) if min(x, y) > 0 else None
    return Attenuation(name, x, y, ceiling, r / ceiling if ceiling else None, rescored_sd)
