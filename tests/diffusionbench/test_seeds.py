"""Training seeds as noise: the bootstrap over methods and runs covers, and floors are seen."""

from __future__ import annotations

import math

import numpy as np
import pytest
from site_records import measured
from test_costs import digits

from diffusionbench.record import Guidance, Protocol, Provenance, Record, Tuning, Value
from diffusionbench.study.analysis import analyse
from diffusionbench.study.floors import at_floor, families_of, floor_of
from diffusionbench.study.points import select_points
from diffusionbench.study.seeds import bootstrap_seeds, pooled_sd


def trained(rng, methods: int, seeds: int, rho: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Runs [methods, seeds] of two axes: unit normal qualities with correlation rho, and noise of each training."""
    quality = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], size=methods)
    return tuple(quality[:, axis, None] + noise * rng.standard_normal((methods, seeds)) for axis in (0, 1))


@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_the_interval_over_methods_and_seeds_covers_the_correlation_of_the_model(rho):
    rng, noise, seeds = np.random.default_rng(3), 0.5, 3
    # What the means of three seeds show of it, and the correlation itself.
    shown = rho / (1 + noise**2 / seeds)
    found = [bootstrap_seeds(*trained(rng, 12, seeds, rho, noise), draws=300, seed=n).interval for n in range(200)]
    # 200 trials: a standard error of 0.015.
    for truth, least in ((shown, 0.93), (rho, 0.90)):
        covered = np.mean([low <= truth <= high for low, high in found])
        assert least <= covered <= 0.99, (truth, covered)


def test_the_interval_over_seeds_alone_has_the_spread_of_trainings_of_the_same_methods():
    rng = np.random.default_rng(5)
    quality, noise = rng.standard_normal((2, 20)), 0.4
    runs = [one[:, None] + noise * rng.standard_normal((20, 6)) for one in quality]
    again = []
    for _ in range(2000):
        means = [one + noise / math.sqrt(6) * rng.standard_normal(20) for one in quality]
        again.append(np.corrcoef(*means)[0, 1])
    low, high = bootstrap_seeds(*runs, draws=4000).seeds_interval
    assert high - low == pytest.approx(2 * 1.96 * np.std(again), rel=0.25)


def test_without_repeats_only_methods_are_drawn_and_nothing_is_said_of_seeds():
    x = [[float(n)] for n in range(8)]
    y = [[float(n % 3)] for n in range(8)]
    found = bootstrap_seeds(x, y, draws=200)
    assert (found.repeated, found.seeds_interval, found.sd_x, found.sd_y) == (0, None, None, None)
    assert found.interval is not None
    assert bootstrap_seeds(x[:3], y[:3]).interval is None
    with pytest.raises(ValueError, match="give the runs of the same ones"):
        bootstrap_seeds(x, y[:3])
    with pytest.raises(ValueError, match="at least one each"):
        bootstrap_seeds([[], [1.0]], [[1.0], [1.0]])


def test_the_spread_of_one_training_is_pooled():
    assert pooled_sd([[1.0, 3.0], [5.0], [2.0, 2.0, 2.0]]) == pytest.approx(math.sqrt(2 / 3))
    assert pooled_sd([[1.0], [2.0]]) is None


def scenes(name: str, seed: int, score: float, error: float = 0.02, **parts: float) -> Record:
    """A record of drawn shapes with its families."""
    key = "simpleeval_shapes_v1"
    values = {key: score, **{f"{key}_{part}": value for part, value in parts.items()}}
    record = measured(
        name,
        "t2i",
        {},
        id=f"{name}-t2i-{seed}",
        protocol=Protocol(name="t2i", axis="t2i", count=576, prompts=key, guidance=Guidance(scale=6.0)),
        provenance=Provenance(source="made up", images_digest=f"{name}{seed}"),
    )
    return record.model_copy(update={"values": {name: Value(value=one, stderr=error) for name, one in values.items()}})


def test_repeats_reach_the_points_and_the_study():
    records = [digits(f"m{n}", 5.0 - n + 0.1 * k, 1.0, weights="abc"[k]) for n in range(5) for k in range(3)]
    records += [scenes(f"m{n}", k, n / 10 + 0.02 * k) for n in range(5) for k in range(2)]
    study = analyse(select_points(records, "fd_digits", "simpleeval_shapes_v1", score_set="measured"), draws=200)
    assert [len(point.x_runs) for point in study.selection.points] == [3] * 5
    assert [len(point.y_runs) for point in study.selection.points] == [2] * 5
    assert (study.seeds.methods, study.seeds.repeated) == (5, 5)
    assert study.seeds.sd_x == pytest.approx(0.1)
    assert study.seeds.sd_y == pytest.approx(0.02 / math.sqrt(2))
    assert study.seeds.value == pytest.approx(study.pearson.value)


def test_trainings_that_found_different_scales_are_repeats():
    def tuned(scale: float, weights: str, fd: float, tuning: Tuning | None) -> Record:
        one = digits("m", fd, 1.0, scale, weights)
        return one.model_copy(update={"protocol": one.protocol.model_copy(update={"tuning": tuning})})

    def runs(tuning: Tuning | None, networks: str = "ab") -> list[list[float]]:
        records = [tuned(1.4, networks[0], 3.0, tuning), tuned(1.7, networks[1], 4.0, tuning)]
        selection = select_points(records, "fd_digits", "fd_digits", guidance="cfg", score_set="measured")
        return [[*point.x_runs] for point in selection.points]

    assert runs(Tuning(split="even")) == [[3.0, 4.0]]
    # Another search over the same network is no other training.
    assert runs(Tuning(split="even"), "aa") == [[3.0]]
    # Scales that were asked for are settings.
    assert runs(None) == [[3.0]]


# Floors


@pytest.mark.parametrize(
    "key, value, low",
    [
        ("simpleeval_shapes_v1", Value(value=0.03, stderr=0.02), True),
        ("simpleeval_shapes_v1", Value(value=0.06, stderr=0.02), False),
        ("simpleeval_shapes_v1", Value(value=-0.1), True),
        ("simpleeval_shapes_v1", Value(value=0.03), False),
        ("geneval_overall", Value(value=0.0), True),
        # A small distance is no floor.
        ("fd_digits", Value(value=0.0), False),
    ],
)
def test_a_score_is_at_its_floor_where_it_cannot_be_told_from_none(key, value, low):
    assert at_floor(key, value) == low


def test_parts_off_the_floor_are_named_the_best_first():
    key = "simpleeval_shapes_v1"
    rows = {
        "a": scenes("a", 0, 0.01, colour=0.4, shape=-0.1, background=0.02),
        "b": scenes("b", 0, 0.02, colour=0.3, shape=0.0, background=0.3),
        "c": scenes("c", 0, 0.30, colour=0.5, shape=0.0, background=0.3),
    }
    families = families_of(key, rows["a"].values)
    assert families == ("colour", "shape", "background")
    found = floor_of(rows, key, families)
    assert (found.low, found.several, found.methods) == (("a", "b"), True, 3)
    assert found.off == (f"{key}_colour", f"{key}_background")
    assert floor_of({"c": rows["c"]}, key, families).several is False
