"""The stress harness: attacks stay in their bounds and do what they are made for; blind generators gain nothing."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffusionbench.benchmarks.simpleeval.prompts import build
from diffusionbench.benchmarks.simpleeval.shapes_scorer import read
from diffusionbench.benchmarks.simpleeval.stress import attacks, harness, perturbations, toy_scorers
from diffusionbench.benchmarks.simpleeval.stress.baseline import BUDGETS, Bench, Outcome, block_weights, share, subset
from diffusionbench.benchmarks.simpleeval.stress.simulate import draw
from diffusionbench.benchmarks.simpleeval.stress.targets import TARGETS, SimpleEvalTarget
from diffusionbench.errors import DataError


@pytest.fixture(scope="module")
def ours():
    target = SimpleEvalTarget()
    yield target
    target.pool.shutdown()


def bench(targets, blocks, of=None):
    """Attacked on `blocks` blocks of a set of `of`."""
    budget = replace(BUDGETS["quick"], blocks=blocks)
    prompt_set = subset(build("shapes", "public-0", "quick"), of or blocks)
    return Bench(prompt_set, targets, 0.6, budget, lambda line: None)


@pytest.fixture(scope="module")
def learned():
    missing = [name for name in toy_scorers.NAMES if not (toy_scorers.FOLDER / f"{name}.safetensors").exists()]
    if missing:
        pytest.skip(f"{missing[0]} is not trained: python tools/train_toy_scorers.py")
    return [TARGETS[name]() for name in toy_scorers.NAMES]


def test_shipped_scorers_are_the_trained_ones_and_good_enough(learned):
    facts = json.loads((toy_scorers.FOLDER / "toy_scorers.json").read_text())
    assert facts["toy_clipscore"]["two_way"] >= 0.95
    assert facts["toy_vqascore"]["yes_no"] >= 0.75
    for name in toy_scorers.NAMES:
        assert (toy_scorers.FOLDER / f"{name}.safetensors").stat().st_size <= 2_000_000
        assert toy_scorers.load(name) is toy_scorers.load(name)


def test_missing_weights_and_foreign_words_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(toy_scorers, "FOLDER", tmp_path)
    toy_scorers.load.cache_clear()
    with pytest.raises(DataError, match="train_toy_scorers"):
        toy_scorers.load("toy_clipscore")
    toy_scorers.load.cache_clear()
    with pytest.raises(DataError, match="no word of the shapes world"):
        toy_scorers.tokens(["a red dog"])


def test_gradient_attack_works_on_learned_metrics_and_not_on_ours(ours, learned):
    """A1 on 24 images: within the bound, a large gain of the attacked metric, hardly any of ours."""
    found = bench([ours, *learned], 6)
    images = [one.image for one in found.base]
    clip = learned[0]
    changed = perturbations.pgd(clip.model, images, [prompt.text for prompt in found.prompts], 8)
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(images, changed, strict=True)) <= 8
    outcome = found.outcome("A1", "toy_clipscore 8/255", changed, "toy_clipscore")
    assert outcome.gap("toy_clipscore")[0] >= 0.5
    assert outcome.gap(ours.name)[0] <= 0.1


def test_blind_generators_score_at_most_chance(ours):
    outcomes = attacks.blind(bench([ours], 12))
    assert len(outcomes) == 5
    for outcome in outcomes:
        assert outcome.values[ours.name] <= 0.01, outcome.detail


def test_blind_attacks_take_the_whole_set():
    found = bench([], 2, of=6)
    assert found.whole.set.num_blocks == 6
    assert found.whole.whole is found.whole
    assert found.set.num_blocks == 2


def test_memorisers_are_flagged():
    known, phrased = attacks.memoriser(bench([], 12, of=72))
    assert known.flags == {"G1": True, "bound score unchanged": True}
    assert phrased.flags == {"G2": True}


def test_square_attack_stays_in_its_bound():
    prompt = build("shapes", "public-0", "quick").prompts[0]
    image = draw(prompt, 0, 0.6, "square").image
    changed = perturbations.square(image, prompt, 16, 6, "s")
    assert np.abs(changed.astype(int) - image).max() <= 16


def test_square_attack_ends_where_nothing_is_left_to_gain(monkeypatch):
    prompt = build("shapes", "public-0", "quick").prompts[0]
    seen = []
    monkeypatch.setattr(perturbations, "read", lambda one, **options: seen.append(one) or read(one, **options))
    # All facts right: the image and its first change are read, and no trial. All wrong: every query is spent.
    for accuracy, spent in ((1.0, 2), (0.0, 20)):
        seen.clear()
        perturbations.square(draw(prompt, 0, accuracy, "square").image, prompt, 1, 20, "s")
        assert len(seen) == spent


def test_square_attack_starts_from_a_written_background(monkeypatch):
    """Where a background is asked for, the first queries are that background, and the best of them is kept."""
    prompt = next(p for p in build("shapes", "public-0", "quick").prompts if p.questions[1].slot == "background")
    image = draw(prompt, 0, 0.0, "square").image
    wanted = perturbations.written(image, prompt.questions[1].options[prompt.questions[1].answer], 40)
    seen = []
    monkeypatch.setattr(perturbations, "read", lambda one, **options: seen.append(one) or read(one, **options))
    perturbations.square(image, prompt, 40, len(wanted) + 2, "s")
    assert all(np.array_equal(one, start) for one, start in zip(seen[2:], wanted, strict=True))


def test_square_attack_is_told_by_family(ours):
    found = bench([ours], 2)
    found.budget = replace(found.budget, square_images=8, queries=(3,))
    (outcome,) = attacks.adaptive(found)
    asked = {question.family for prompt in found.prompts for question in prompt.questions[:2]}
    assert {name.removesuffix(" gained") for name in outcome.others((ours.name,))} == asked


def test_best_of_is_also_taken_by_all_named_facts(ours):
    """With four images to choose from, the choice by all named facts is the better one for the held facts."""
    found = bench([ours], 3)
    found.budget = replace(found.budget, candidates=(1, 4))
    outcomes = {outcome.detail: outcome for outcome in attacks.best_of(found)}
    ways = (ours.name, f"{ours.name} by all named facts")
    assert set(outcomes) == {f"{way} best of {n}, {facts} facts" for way in ways for n in (1, 4) for facts in FACTS}
    assert len({outcomes[f"{way} best of 1, all facts"].values[ours.name] for way in ways}) == 1
    by_asked, by_named = (outcomes[f"{way} best of 4, all facts"].truth[0] for way in ways)
    assert by_named > by_asked > outcomes[f"{ours.name} best of 1, all facts"].truth[0]


FACTS = ("contrasted", "all")


def test_overlays_are_scored_with_and_without_the_background(ours):
    found = bench([ours], 7)
    found.budget = replace(found.budget, overlay_levels=(8,))
    outcomes = attacks.overlaid(found)
    assert [outcome.detail for outcome in outcomes] == ["own layout, 8/255", "shared layout, 8/255"]
    for outcome in outcomes:
        assert outcome.values[ours.name] <= 0.03
        assert outcome.values["without background"] <= 0


def test_universal_perturbation_is_one_for_all(learned):
    found = bench(learned, 2)
    images = [one.image for one in found.base]
    change = perturbations.universal(learned[0].model, images, [prompt.text for prompt in found.prompts], 8, 3)
    assert change.shape == (3, 64, 64)
    assert float(change.abs().max()) <= 8 / 255 + 1e-6
    assert float(change.abs().max()) > 0


def test_looks_and_words():
    image = draw(build("shapes", "public-0", "quick").prompts[0], 0, 1.0, "look").image
    assert np.array_equal(perturbations.restyle(image, {}), image)
    for name, (neutral, low, high) in perturbations.LOOKS.items():
        assert not np.array_equal(perturbations.restyle(image, {name: high if high != neutral else low}), image), name
    words = perturbations.write_words(image, "one red circle", 1, False)
    mirrored = perturbations.write_words(image[:, ::-1], "one red circle", 1, True)
    assert (words != image).any()
    assert np.array_equal(words[:, ::-1], mirrored)
    style = perturbations.tune_look(lambda look: -abs(look["contrast"] - 1.3), 60, "seed")
    assert abs(style["contrast"] - 1.3) < 0.2


def test_share_of_facts_and_weights():
    prompt = build("shapes", "public-0", "quick").prompts[0]
    assert share(prompt, prompt.facts) == 1
    assert share(prompt, {}) == 0
    slot = prompt.questions[0].slot
    assert share(prompt, {slot: prompt.facts[slot]}, contrasted=True) == 0.5
    part = subset(build("shapes", "public-0", "quick"), 6)
    assert part.num_blocks == 6
    weights = block_weights(part)
    assert weights.shape == (501, 6)
    assert (weights.sum(axis=1) == 6).all()


OTHERS = "without background"


def outcome(attack, detail, target, gain, truth=0.0):
    numbers = np.full(501, gain)
    return Outcome(attack, detail, target, {harness.OURS: numbers}, {harness.OURS: gain}, np.full(501, truth))


def test_requirements_are_checked():
    assert harness._checks(outcome("A2", "square 16/255, 120 queries", harness.OURS, 0.2), "quick")[0].missed
    assert not harness._checks(outcome("A2", "square 16/255, 120 queries", harness.OURS, 0.05), "quick")[0].missed
    # What was truly gained is no hack.
    best = outcome("A4", f"{harness.OURS} best of 16, contrasted facts", harness.OURS, 0.9, 0.88)
    assert not harness._checks(best, "quick")[0].missed
    assert harness._checks(outcome("A5", "grey", None, 0.02), "quick")[0].missed
    # Own pictures: their score counts, with and without the background.
    overlaid = replace(outcome("A10", "shared layout, 8/255", None, 0.02), values={harness.OURS: 0.02, OTHERS: 0.01})
    assert [check.missed for check in harness._checks(overlaid, "standard")] == [False, True]
    overlaid = replace(overlaid, values={harness.OURS: 0.04, OTHERS: 0.0})
    assert [check.missed for check in harness._checks(overlaid, "standard")] == [True, False]
    family = replace(outcome("A2", "square 8/255, 120 queries", harness.OURS, 0.0), values={"background gained": 0.05})
    assert [check.missed for check in harness._checks(family, "standard")] == [True]
    wide = outcome("A9", "toy_clipscore universal 8/255", "toy_clipscore", 0.05)
    wide.gains[harness.OURS][1:] = np.linspace(-0.1, 0.2, 500)
    assert not harness._checks(wide, "quick")[0].missed
    assert harness._checks(wide, "standard")[0].missed


def test_report_in_text_and_json():
    rows = (outcome("A9", "toy_clipscore universal 8/255", None, 0.01), outcome("A5", "grey", None, 0.02))
    checks = tuple(check for row in rows for check in harness._checks(row, "quick"))
    found = harness.StressReport("quick", "public-0", "0" * 64, {}, 0.6, (harness.OURS,), {}, {}, rows, checks)
    assert "MISSED  A5 grey" in found.text()
    assert "break radius" in found.text()
    json.dumps(found.facts(), allow_nan=False)
    assert len(found.missed) == 1
    assert torch.is_grad_enabled()
