"""What the score must follow and what it must not: ladders, looks, spread; at full size with -m slow."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

import calibrate_simpleeval as calibrate
from diffusionbench.benchmarks.simpleeval.prompts import build
from diffusionbench.benchmarks.simpleeval.stress.baseline import subset
from diffusionbench.benchmarks.simpleeval.stress.targets import SimpleEvalTarget

#: By how much a rung may lie above the one before it.
SLACK = 0.02


@pytest.fixture(scope="module")
def target():
    found = SimpleEvalTarget()
    yield found
    found.pool.shutdown()


def quick(blocks, seed="public-0"):
    return subset(replace(build("shapes", seed, "quick"), images_per_prompt=1), blocks)


def falls(values, slack=SLACK):
    return all(after <= before + slack for before, after in itertools.pairwise(values))


@pytest.mark.parametrize(("kind", "blocks", "rungs"), [("blur", 12, (0.5, 1.5, 3)), ("noise", 6, (10, 40, 60))])
def test_damage_lowers_the_score(target, kind, blocks, rungs):
    # Noise is full of colours to look through, so it is read slowly.
    found = calibrate.ladder(target, quick(blocks), kind, rungs)
    assert found[0] > 0.8
    assert found[0] > found[1] > found[2]
    assert found[2] < 0.3


def test_ability_raises_the_score(target):
    found = calibrate.abilities(target, quick(12), (1, 0.8, 0.5))
    assert found[0] > 0.9
    assert found[0] > found[1] > found[2]


def test_damage_keeps_the_kind_of_an_image():
    image = calibrate.images_of(quick(1), 1.0)[0]
    rungs = [(kind, amounts[0]) for kind, amounts in calibrate.LADDERS.items()]
    for changed in (
        *(calibrate.degrade(image, kind, amount) for kind, amount in rungs),
        *(calibrate.nuisance(image, name) for name in calibrate.NUISANCES),
    ):
        assert (changed.shape, changed.dtype) == (image.shape, np.uint8)
        assert not np.array_equal(changed, image)


def test_icc_of_equal_and_unrelated_scores():
    rows = np.asarray([[0.9, 0.9, 0.9], [0.5, 0.5, 0.5], [0.1, 0.1, 0.1]])
    assert calibrate.icc(rows) == pytest.approx(1)
    assert calibrate.icc(rows.T + np.asarray([[0], [1e-3], [-1e-3]])) < 0.1


@pytest.mark.slow
def test_all_ladders_fall(target):
    for kind, amounts in calibrate.LADDERS.items():
        assert falls(calibrate.ladder(target, quick(36), kind, amounts)), kind
    reached = calibrate.abilities(target, quick(72), calibrate.ABILITIES)
    assert all(before > after for before, after in itertools.pairwise(reached))
    assert reached[1] < reached[0]
    shuffles = calibrate.shuffled(target, quick(36), (0, 0.25, 0.5, 0.75, 1))
    assert falls(shuffles, 0)
    assert shuffles[-1] <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("accuracy", [1.0, 0.8])
def test_looks_do_not_matter(target, accuracy):
    part = quick(36)
    images = calibrate.images_of(part, accuracy)
    before = calibrate.score(target, part, images)
    for name in calibrate.NUISANCES:
        changed = [calibrate.nuisance(image, name) for image in images]
        # JPEG at half the colour resolution is damage to small shapes, not a look alone.
        limit = 0.05 if name == "jpeg 85" else 0.02
        assert abs(calibrate.score(target, part, changed) - before) <= limit, name


@pytest.mark.slow
def test_spread_over_the_public_seeds():
    accuracies = (0.9, 0.8, 0.7, 0.6)
    scores = np.asarray(
        [
            [calibrate.full_card(build("shapes", f"public-{i}", "quick"), p).score.value for i in range(5)]
            for p in accuracies
        ]
    )
    assert scores.std(axis=1, ddof=1).max() <= 0.035
    assert calibrate.icc(scores) >= 0.95
