"""FDr over its constants, FDr6 as the mean of six, and what keeps them from a place."""

import numpy as np
import pytest
from making import make_metric, update

from diffusionbench.metrics import METRICS
from diffusionbench.metrics.fdr import FDR_CONSTANTS
from diffusionbench.metrics.frechet import frechet_distance
from diffusionbench.metrics.metric import Context
from diffusionbench.moments import moments
from diffusionbench.references.reference import JudgedReference
from diffusionbench.references.statistics import KNOWN, KnownStatistics
from diffusionbench.sample import Sample, plain_item

COUNT = 60
SAMPLES = [Sample(place, plain_item(0)) for place in range(COUNT)]


class Real:
    """A reference of its own for each judge, whose widths differ."""

    name = "real"
    digest = "2" * 64

    def __init__(self, place: int) -> None:
        self.width = 4 + place

    def moments(self, judge):
        return np.full(self.width, 0.3), 1.5 * np.eye(self.width)


def features(place: int) -> np.ndarray:
    return np.random.default_rng(place).normal(size=(COUNT, 4 + place)).astype(np.float32)


def six(key="fdr6"):
    spec = METRICS[key]
    references = {judge: JudgedReference(Real(place), None) for place, judge in enumerate(spec.judges)}
    return METRICS.load(key)(spec, Context(references))


def distance(place: int, rows=slice(None)) -> float:
    return frechet_distance(*moments(features(place)[rows]), *Real(place).moments(None))


def test_the_published_constants():
    assert FDR_CONSTANTS == {
        "inception": 1.68, "convnext": 56.87, "dinov2": 14.19, "mae": 0.04, "siglip": 0.60, "clip": 5.60
    }  # fmt: skip
    assert METRICS["fdr6"].judges == tuple(FDR_CONSTANTS)


@pytest.mark.parametrize("place, judge", [*enumerate(FDR_CONSTANTS)])
def test_fdr_is_the_distance_over_its_constant(place, judge):
    metric, plain = make_metric(f"fdr_{judge}", Real(place)), make_metric("fd_digits", Real(place))
    for one in (metric, plain):
        update(one, {"features": features(place)}, SAMPLES)
    found, whole = metric.compute(), plain.compute()
    assert found.value == pytest.approx(distance(place) / FDR_CONSTANTS[judge], rel=1e-5)
    assert found.stderr == pytest.approx(whole.stderr / FDR_CONSTANTS[judge], rel=1e-9)


def test_fdr6_is_the_mean_of_the_six_which_it_gives_too():
    metric = six()
    metric.update({judge: {"features": features(place)} for place, judge in enumerate(FDR_CONSTANTS)}, SAMPLES)
    found = metric.compute()
    wanted = [distance(place) / constant for place, constant in enumerate(FDR_CONSTANTS.values())]
    assert [one.value for one in found.parts.values()] == pytest.approx(wanted, rel=1e-5)
    assert list(found.parts) == [f"fdr_{judge}" for judge in FDR_CONSTANTS]
    assert found.value == pytest.approx(np.mean(wanted), rel=1e-5)
    assert found.method == "jackknife"


def test_the_upstream_mode_has_two_judges_of_its_own_and_the_same_constants():
    metric = six("fdr6_upstream")
    names = ("inception", "convnext_upstream", "dinov2", "mae", "siglip_upstream", "clip")
    assert metric.spec.judges == names
    metric.update({judge: {"features": features(place)} for place, judge in enumerate(names)}, SAMPLES)
    found = metric.compute()
    wanted = [distance(place) / constant for place, constant in enumerate(FDR_CONSTANTS.values())]
    assert found.value == pytest.approx(np.mean(wanted), rel=1e-5)
    assert list(found.parts) == [f"fdr_{judge}" for judge in names]


def test_an_image_counts_where_all_six_are_finite():
    metric, rows = six(), {judge: features(place) for place, judge in enumerate(FDR_CONSTANTS)}
    rows["mae"][7, 0] = np.nan
    for part in (slice(0, 20), slice(20, COUNT)):
        metric.update({judge: {"features": one[part]} for judge, one in rows.items()}, SAMPLES[part])
    found = metric.compute()
    assert list(found.unjudged) == [7]
    left = np.arange(COUNT) != 7
    wanted = [distance(place, left) / constant for place, constant in enumerate(FDR_CONSTANTS.values())]
    assert found.value == pytest.approx(np.mean(wanted), rel=1e-5)


def test_another_reference_than_the_published_one_is_said(monkeypatch):
    metric = make_metric("fdr_mae", Real(3))
    update(metric, {"features": features(3)}, SAMPLES)
    assert metric.compute().status == "provisional"
    monkeypatch.setitem(KNOWN, Real.digest, KnownStatistics("mae", "mae (FD-loss)"))
    assert metric.compute().status == "ok"
