"""The groups of the jackknife, and its error against that of independent redraws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from making import make_metric, update

from diffusionbench.metrics.frechet import frechet_distance
from diffusionbench.metrics.inception_score import inception_score
from diffusionbench.metrics.kid import kid
from diffusionbench.metrics.precision_recall import precision_recall
from diffusionbench.sample import Sample, plain_item
from diffusionbench.stats import GROUPS, groups_of

ORDERS = {
    "in turn": lambda labels: np.sort(labels).reshape(len(set(labels.tolist())), -1).T.ravel(),
    "sorted": np.sort,
    "shuffled": lambda labels: np.random.default_rng(1).permutation(labels),
}


def samples(labels, images_per_prompt: int = 1, prompts: bool = False) -> list[Sample]:
    return [
        Sample(place, plain_item(text=f"prompt {place // images_per_prompt}"))
        if prompts
        else Sample(place, plain_item(int(label)))
        for place, label in enumerate(labels)
    ]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("classes", [1, 10, 100, 1000])
def test_every_group_has_its_share_of_every_class(classes, order):
    labels = ORDERS[order](np.arange(20 * classes) % classes)
    groups = np.array(list(groups_of(samples(labels)).values()))
    counts = np.zeros((classes, GROUPS), int)
    np.add.at(counts, (labels, groups), 1)
    assert (counts == 2).all()


def test_one_image_classes_spread_and_a_missing_label_counts_as_zero():
    ones = groups_of(Sample(place, plain_item(999 - place)) for place in range(1000))
    assert np.bincount(list(ones.values())).tolist() == [100] * GROUPS
    unlabelled = groups_of(Sample(place) for place in range(25))
    assert list(unlabelled.values()) == [place % GROUPS for place in range(25)]
    assert groups_of(Sample(place, plain_item(0)) for place in range(25)) == unlabelled


def test_a_group_follows_from_label_and_rank_whatever_the_order_and_the_gaps():
    labels = np.random.default_rng(0).integers(0, 7, 200)
    whole = groups_of(samples(labels))
    assert whole[0] == labels[0]
    for label in range(7):
        places = np.flatnonzero(labels == label)
        assert [whole[place] for place in places] == [(rank + label) % GROUPS for rank in range(len(places))]
    assert groups_of(reversed(samples(labels))) == whole
    gaps = groups_of(Sample(7 * place + 2, plain_item(int(label))) for place, label in enumerate(labels))
    assert list(gaps.values()) == list(whole.values())


def test_images_of_a_prompt_stay_in_one_group():
    groups = groups_of(samples(range(100), 4, prompts=True))
    assert [groups[place] for place in range(100)] == [place // 4 % GROUPS for place in range(100)]
    # A class with words for it is still a class.
    assert groups_of(Sample(place, plain_item(3, "three")) for place in range(30)) == groups_of(
        Sample(place, plain_item(3)) for place in range(30)
    )


@dataclass
class Real:
    """Stands in for a reference: rows with a mean of their own."""

    rows: np.ndarray
    name = "real"

    def features(self, judge):
        return self.rows

    def moments(self, judge):
        return self.rows.mean(axis=0), np.cov(self.rows, rowvar=False)


class World:
    """Images of labels as features: far class means and noise around them.

    Args:
        labels: class of every image, in the order of ids.
        fixed: whether the means stay from one draw to the next, as those of classes do; those of prompts do not.
    """

    def __init__(self, labels: np.ndarray, width: int, spread: float, fixed: bool = True) -> None:
        self.labels, self.width, self.spread, self.fixed = labels, width, spread, fixed
        self.real = Real(np.random.default_rng(99).normal(size=(max(2000, width), width)) * 2 + 1)

    def draw(self, seed: int) -> np.ndarray:
        means = np.random.default_rng(7 if self.fixed else 10_000 + seed).normal(
            size=(self.labels.max() + 1, self.width)
        )
        noise = np.random.default_rng(seed).normal(size=(len(self.labels), self.width))
        return (self.spread * means[self.labels] + noise).astype(np.float32)

    def distance(self, rows: np.ndarray) -> float:
        return frechet_distance(rows.mean(axis=0), np.cov(rows, rowvar=False), *self.real.moments(None))

    def ratio(self, metric, value, wanted, output="features", draws=60, asked=6) -> float:
        """Mean reported standard error over the deviation of independent redraws."""
        truth = np.std([value(self.draw(seed)) for seed in range(1000, 1000 + draws)], ddof=1)
        told = []
        for seed in range(asked):
            one = metric()
            update(one, {output: self.draw(seed)}, wanted)
            told.append(one.compute().stderr)
        return float(np.mean(told) / truth)


def frechet_ratio(labels: np.ndarray, width: int, spread: float) -> float:
    world = World(labels, width, spread)
    return world.ratio(lambda: make_metric("fd_digits", world.real), world.distance, samples(labels))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("classes, each", [(1, 500), (10, 100), (100, 20), (1000, 10)])
def test_the_error_is_that_of_redraws_for_any_number_and_order_of_classes(classes, each, order):
    labels = ORDERS[order](np.arange(classes * each) % classes)
    assert 0.7 < frechet_ratio(labels, 4, 3.0) < 1.4


def test_the_error_of_one_image_classes_lies_between_that_of_images_and_that_of_classes():
    """Nothing tells the image's share from the class's; never too small, and no more than drawing both."""
    labels = np.arange(500)
    fixed, both = World(labels, 4, 1.0), World(labels, 4, 1.0, fixed=False)
    assert fixed.ratio(lambda: make_metric("fd_digits", fixed.real), fixed.distance, samples(labels)) > 0.8
    assert both.ratio(lambda: make_metric("fd_digits", both.real), both.distance, samples(labels)) < 1.3


@pytest.mark.parametrize("metric", ["frechet", "kid", "inception score", "precision"])
def test_the_error_of_four_images_per_prompt_is_that_of_redrawn_prompts(metric, monkeypatch):
    monkeypatch.setattr("diffusionbench.metrics.kid._SUBSETS", 2)
    labels = np.arange(800) // 4
    world = World(labels, 4, 2.0, fixed=False)
    wanted, real = samples(labels, 4, prompts=True), world.real.rows[:400]
    ratio = {
        "frechet": lambda: world.ratio(lambda: make_metric("fd_digits", world.real), world.distance, wanted),
        "kid": lambda: world.ratio(
            lambda: make_metric("kd_digits", Real(real), min_samples=400),
            lambda rows: kid(rows, real, 2, 400)[0],
            wanted,
            draws=40,
        ),
        "inception score": lambda: world.ratio(
            lambda: make_metric("is_digits"), lambda rows: inception_score(rows)[0], wanted, "logits"
        ),
        "precision": lambda: world.ratio(
            lambda: make_metric("precision_digits", Real(real)),
            lambda rows: precision_recall(rows, real)[0],
            wanted,
            draws=40,
        ),
    }[metric]()
    assert 0.7 < ratio < 1.4


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("classes", [1, 10, 100, 1000])
def test_the_error_is_that_of_redraws_at_full_size(classes, order):
    labels = ORDERS[order](np.arange(50_000) % classes)
    assert 0.75 < frechet_ratio(labels, 32, 10.0) < 1.35
