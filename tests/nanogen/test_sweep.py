"""Guidance is tuned on some images and scored on others: the search, the split, and what the record says of them."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny

from diffusionbench.errors import RequestError
from diffusionbench.judges.digits import DigitsJudge
from diffusionbench.metrics.frechet import frechet_distance, moments
from diffusionbench.record import load
from diffusionbench.references.half import HalfReference
from diffusionbench.references.opening import resolve
from diffusionbench.sample import SAMPLE, Sample, noise_seed, plain_item
from nanogen import sweep
from nanogen.api import open_source
from nanogen.evaluate import records_of
from nanogen.sweep import SweepRequest, golden_section, optimism, parse_scales, sweep_run
from nanogen.train import train

SCORED = (
    "eval.metrics=[accuracy_digits,fd_digits]",
    "eval.reference=digits",
    "eval.num_samples=24",
    "eval.seed=5",
    "sampler.num_steps=4",
)
GRID = SweepRequest(grid=(2.0, 4.0))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "tuned"
    train(tiny(3, *SCORED), path, "cpu", ["test"])
    return path


@pytest.fixture(scope="module")
def swept(trained):
    """The record of a sweep over a grid, and the run's folder."""
    return sweep_run(trained, GRID), trained


# --- The search ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("best", [1.0, 1.7, 2.5, 6.0, 10.0])
def test_golden_section_finds_the_valley_of_a_known_curve(best):
    asked: list[float] = []

    def value(scale: float) -> float:
        asked.append(scale)
        return (math.log(scale) - math.log(best)) ** 2

    tried = golden_section(value, 1.0, 10.0, 12)
    assert asked == [*tried], "no scale is evaluated twice"
    assert asked[0] == 1.0, "no guidance is always among them"
    assert len(asked) <= 12
    assert all(1 <= scale <= 10 for scale in asked)
    assert abs(math.log(min(tried, key=lambda scale: tried[scale]) / best)) < 0.05


@pytest.mark.parametrize("seed", range(5))
def test_with_noise_the_chosen_scale_is_within_noise_of_the_best(seed):
    noise, size = np.random.default_rng(seed), 0.02

    def true(scale: float) -> float:
        return 2 + (math.log(scale) - math.log(2.2)) ** 2

    tried = golden_section(lambda scale: true(scale) + size * noise.standard_normal(), 1.0, 10.0, 8)
    chosen = min(tried, key=lambda scale: tried[scale])
    assert true(chosen) < 2 + 6 * size


# --- The split -------------------------------------------------------------------------------------------------------


def by_hand(run: Path, scale: float, seed: int, start: int) -> float:
    """The Frechet distance of a scale, from the network, the classifier and the real images of one parity alone."""
    source = open_source(f"'{run}' guidance.scale={scale} guidance.interval=[0.0,0.9]")
    labels = resolve("digits").labels(24)
    samples = [Sample(i, plain_item(labels[i]), seed=noise_seed(seed, SAMPLE, i)) for i in range(24)]
    judge = DigitsJudge()
    images = source.images(samples)
    made = judge(images, [sample.item for sample in samples], {})["features"]
    real = resolve("digits").features(judge)[start::2]
    return frechet_distance(*moments(np.asarray(made)), *moments(real))


def test_even_images_and_the_next_seed_tune(swept):
    record, run = swept
    for trial in record.extra["sweep"]["tried"]:
        assert trial["value"] == pytest.approx(by_hand(run, trial["scale"], seed=6, start=0), rel=1e-3)


def test_odd_images_and_the_run_s_seed_score_the_chosen_scale(swept):
    record, run = swept
    facts = record.extra["sweep"]
    assert facts["scale"] == min(facts["tried"], key=lambda trial: trial["value"])["scale"]
    found = record.values["fd_digits"].value
    assert found == pytest.approx(by_hand(run, facts["scale"], seed=5, start=1), rel=1e-3)
    assert facts["unguided"]["value"] == pytest.approx(by_hand(run, 1.0, seed=5, start=1), rel=1e-3)


def test_the_record_says_what_was_tried(swept):
    record, run = swept
    assert record.protocol.guidance.interval == (0.0, 0.9)
    assert record.protocol.tuning.seeds == (6,)
    assert record.protocol.tuning.count == 24
    assert "even" in record.protocol.tuning.split
    trials = {one.id: one for one in records_of(run, "sweep")}
    assert {*record.protocol.tuning.records} == {*trials}
    assert [trial["scale"] for trial in record.extra["sweep"]["tried"]] == [1.0, 2.0, 4.0]
    for trial in record.extra["sweep"]["tried"]:
        assert trials[trial["record"]].values["fd_digits"].value == trial["value"]
        assert trials[trial["record"]].protocol.references["digits"].name == "digits, even half"
        assert trials[trial["record"]].protocol.guidance.interval == (0.0, 0.9)
        assert {*trials[trial["record"]].values} == {"fd_digits"}, "only what tunes is computed"
    assert record.protocol.references["digits"].name == "digits, odd half"
    beside = load(run / "evals" / f"{record.extra['sweep']['unguided']['record']}.json")
    assert (beside.protocol.guidance.scale, beside.protocol.seed, record.protocol.seed) == (1.0, 5, 5)
    assert {*beside.values} == {*record.values} == {"accuracy_digits", "fd_digits"}
    assert not (run / "sweep" / "images").exists(), "images of tried scales are not kept"
    assert (run / "sweep" / "fd_digits.svg").read_text().startswith("<svg")


def test_a_sweep_that_is_started_again_measures_nothing_anew(swept, tmp_path, monkeypatch):
    record, run = swept
    again = Path(shutil.copytree(run, tmp_path / run.name))
    monkeypatch.setattr(sweep, "evaluate", lambda *given, **named: pytest.fail("evaluated"))
    assert sweep_run(again, GRID).values == record.values
    # Another scale is measured, and nothing else.
    monkeypatch.undo()
    made: list[float] = []
    evaluate = sweep.evaluate

    def counted(pipeline, *given, **named):
        made.append(pipeline.config.guidance.scale)
        return evaluate(pipeline, *given, **named)

    monkeypatch.setattr(sweep, "evaluate", counted)
    more = sweep_run(again, SweepRequest(grid=(2.0, 3.0, 4.0)))
    best = more.extra["sweep"]["scale"]
    assert made == [3.0, best], "its record names other scales, so the chosen one gets a record of its own"


def test_statistics_cannot_be_divided_so_only_the_seeds_are(tmp_path):
    mean, cov = resolve("digits").moments(DigitsJudge())
    np.savez(tmp_path / "real.npz", mu=mean, sigma=cov)
    whole = resolve(str(tmp_path / "real.npz"), "digits")
    with pytest.raises(RequestError, match="holds statistics, and no images that could be divided"):
        HalfReference(whole, "even")
    known = (
        "eval.metrics=[fd_digits]",
        f"eval.reference={tmp_path / 'real.npz'}",
        "eval.reference_extractors=[digits]",
    )
    run = train(tiny(2, "condition.num_classes=10", "eval.num_samples=24", *known), tmp_path / "run", "cpu", ["test"])
    record = sweep_run(run.path, SweepRequest(grid=(2.0,)))
    assert record.extra["sweep"]["split"] == "the same statistics; seeds differ"
    trials = records_of(run.path, "sweep")
    assert {trial.protocol.seed for trial in trials} == {1}
    assert {trial.protocol.references["digits"].digest for trial in trials} == {whole.digest}
    assert record.protocol.seed == 0


def test_a_run_that_is_scored_on_the_way_by_the_odd_half_is_divided_already(tmp_path):
    known = ("eval.metrics=[fd_digits]", "eval.reference=['digits:odd']", "eval.num_samples=24", "guidance.scale=1.0")
    run = train(tiny(2, *known), tmp_path / "run", "cpu", ["test"])
    (last,) = records_of(run.path)
    record = sweep_run(run.path, SweepRequest(grid=(2.0,)))
    assert {one.protocol.references["digits"].name for one in records_of(run.path, "sweep")} == {"digits, even half"}
    assert record.protocol.references["digits"].name == "digits, odd half"
    assert record.extra["sweep"]["unguided"]["record"] == last.id


def test_an_objective_with_trained_guidance_is_scored_without(tmp_path, capsys):
    run = tmp_path / "few"
    given = ("objective.name=meanflow", "sampler.num_steps=1", "guidance.scale=1.0")
    train(tiny(2, *SCORED[:-1], *given), run, "cpu", ["test"])
    record = sweep_run(run, GRID)
    assert "guidance is not tuned: its guidance is trained in" in capsys.readouterr().err
    assert "sweep" not in record.extra
    assert record.protocol.references["digits"].name == "digits, odd half"
    assert not records_of(run, "sweep")


# --- Optimism --------------------------------------------------------------------------------------------------------


def like(record, key: str, value: float, stderr: float):
    held = record.values["fd_digits"].model_copy(update={"value": value, "stderr": stderr})
    return record.model_copy(update={"values": {key: held}})


@pytest.mark.parametrize("key, sign", [("fd_digits", 1), ("accuracy_digits", -1)])
def test_optimism_is_what_the_choice_gains_beyond_what_the_halves_differ(swept, key, sign):
    record, _ = swept
    tuned, scored, before, after = (like(record, key, sign * value, 0.3) for value in (2.0, 2.5, 4.0, 4.1))
    found = optimism(key, (tuned, scored), (before, after))
    assert found["value"] == pytest.approx(0.4), "0.5 worse where it was not chosen, of which the halves explain 0.1"
    assert found["stderr"] == pytest.approx(0.6)


# --- Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, found", [("1,x", "'x'"), ("0.5", "'0.5'"), ("2,nan", "'nan'"), ("1e9", "'1e9'"), (",", "''")]
)
def test_what_is_no_scale_is_refused(text, found):
    with pytest.raises(RequestError, match=f"found {found}, which is no guidance scale"):
        parse_scales(text)
    assert parse_scales("2, 1.5,2") == (2.0, 1.5)


def test_a_metric_that_the_run_lacks_is_refused(trained):
    with pytest.raises(RequestError, match=r"found 'fd_digit'\. Did you mean 'fd_digits'"):
        sweep_run(trained, SweepRequest(metric="fd_digit"))
