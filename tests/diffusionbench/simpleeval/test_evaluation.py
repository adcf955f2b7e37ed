"""A folder of images named by the prompt set goes from request to record."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from making import ConstantSource
from PIL import Image
from typer.testing import CliRunner

from diffusionbench import runner
from diffusionbench.benchmarks.simpleeval import guards, score, shapes_scorer, shapes_world
from diffusionbench.benchmarks.simpleeval.prompts import build
from diffusionbench.benchmarks.simpleeval.score import SimpleEval
from diffusionbench.benchmarks.simpleeval.shapes_scorer import ShapesScorer
from diffusionbench.benchmarks.simpleeval.stress.baseline import share
from diffusionbench.benchmarks.simpleeval.stress.simulate import draw, simulate
from diffusionbench.benchmarks.simpleeval.verification import differences
from diffusionbench.cli import app
from diffusionbench.errors import RequestError
from diffusionbench.judges import Unjudged
from diffusionbench.metrics import METRICS
from diffusionbench.metrics.metric import Context
from diffusionbench.prompts import PROMPTS, PromptChoice
from diffusionbench.protocol import protocol_difference
from diffusionbench.record import load
from diffusionbench.request import EvalRequest, Evaluation
from diffusionbench.source import FolderSource, PromptFolderSource
from diffusionbench.study.comparison import compare


@pytest.fixture(scope="module")
def tiny():
    """A layout of two blocks a cell cut to its first twelve cells would be another set; one image a prompt is not."""
    patch = pytest.MonkeyPatch()
    patch.setitem(shapes_world.LAYOUTS, "tiny", (1, 1))
    build.cache_clear()
    yield build("shapes", "public-0", "tiny")
    patch.undo()
    build.cache_clear()


def abstain(prompt):
    return np.full((2, 4, len(prompt.questions)), -1, np.int8)


def answer_by(monkeypatch, predictions):
    """Let both readers answer by the prompt alone."""
    monkeypatch.setattr(ShapesScorer, "predict", lambda scorer, images, prompts: [predictions(one) for one in prompts])


def judge(images, samples):
    """Evidence of a batch, by the judge's name."""
    return {"simpleeval_shapes": ShapesScorer()(images, [sample.item for sample in samples])}


def request(**changes):
    base = {
        "axis": "t2i",
        "metrics": ("simpleeval_shapes_v1",),
        "prompts": PromptChoice(name="simpleeval_shapes_v1", layout="tiny"),
        "count": 144,
        "method": "mine",
        "title": "Mine",
    }
    return Evaluation(EvalRequest(**{**base, **changes}))


def shapes_metric(evaluation):
    context = Context(prompts=evaluation.prompts, choice=evaluation.request.prompts)
    return SimpleEval(METRICS["simpleeval_shapes_v1"], context)


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for one in simulate(tiny, 1.0, "folder"):
        path = root / f"{one.prompt.id}/{one.k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(one.image).save(path)
    return root


def test_folder_to_record_and_missing_images_are_named(tiny, folder, tmp_path, monkeypatch):
    record = runner.run(request(), PromptFolderSource(folder))
    assert record.values["simpleeval_shapes_v1"].value > 0.9
    assert record.protocol.prompts_digest == tiny.digest
    assert record.protocol.images_per_prompt == 1
    assert {f"simpleeval_shapes_v1_{name}" for name in ("single", "held", "binding")} <= set(record.values)
    facts = record.extra["facts"]["simpleeval_shapes_v1"]
    assert facts["status"] == "unverified"
    json.dumps(record.model_dump(mode="json"), allow_nan=False)
    same = compare(record, record).values["simpleeval_shapes_v1"]
    assert (same.how.partition(",")[0], same.beyond) == (f"paired: bootstrap over {tiny.num_blocks} prompts", False)
    missing = folder / f"{tiny.prompts[5].id}/0.png"
    missing.rename(tmp_path / "0.png")
    answer_by(monkeypatch, abstain)
    try:
        with pytest.raises(RequestError, match=rf"1 of 144 images are missing, of 1 prompts \({tiny.prompts[5].id}\)"):
            runner.run(request(), PromptFolderSource(folder))
        again = runner.run(request(allow_partial=True), PromptFolderSource(folder))
    finally:
        (tmp_path / "0.png").rename(missing)
    assert again.extra["facts"]["simpleeval_shapes_v1"]["status"] == "incomplete"
    assert tiny.prompts[5].id in again.unscored[0]
    assert again.partial
    assert again.values["simpleeval_shapes_v1"].unscored == 4


def test_readers_and_statuses_stand_in_the_protocol_and_beside_every_value(folder, monkeypatch):
    answer_by(monkeypatch, abstain)
    key = "simpleeval_shapes_v1"
    first = runner.run(request(), PromptFolderSource(folder))
    assert {(one.status, one.judges) for one in first.values.values()} == {("provisional", ("simpleeval_shapes",))}
    assert first.values[key].reason.startswith("unverified; the seed is public")
    monkeypatch.setattr(shapes_scorer, "READERS_VERSION", "other")
    second = runner.run(request(), PromptFolderSource(folder))
    assert second.id != first.id
    assert [*protocol_difference(first, second, key)] == ["judges.simpleeval_shapes.digest"]
    assert first.protocol.items_digest == second.protocol.items_digest is not None


def test_samples_carry_noise_seeds_and_files(tiny):
    samples = request().samples(ConstantSource((64, 64)))
    rows = [json.loads(line) for line in tiny.jsonl.splitlines()]
    assert [sample.prompt for sample in samples] == [row["text"] for row in rows]
    assert [sample.seed for sample in samples] == [row["seeds"][0] for row in rows]
    assert samples[0].file == f"{tiny.prompts[0].id}/0"


def test_what_cannot_be_asked(folder):
    with pytest.raises(RequestError, match="prompt set"):
        request(prompts=None).samples(ConstantSource((64, 64)))
    with pytest.raises(RequestError, match="Ask for at most"):
        request(count=145).samples(ConstantSource((64, 64)))
    with pytest.raises(RequestError, match="Name"):
        request().samples(_flat(folder))
    with pytest.raises(RequestError, match="matching metric"):
        runner.run(request(metrics=("simpleeval_v1",)), PromptFolderSource(folder))
    with pytest.raises(RequestError, match="no seed"):
        PROMPTS.load("simpleeval_shapes_v1").open("public-9", None)


def test_a_set_with_a_repeated_prompt_is_refused(monkeypatch):
    opened = request().prompts
    items = (*opened.items[:-1], opened.items[0])
    monkeypatch.setattr(type(PROMPTS.load("simpleeval_shapes_v1")), "open", lambda *words: replace(opened, items=items))
    with pytest.raises(RequestError, match="more than once, the first"):
        request()


def test_batch_size_plays_no_part(tiny):
    evaluation = request()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    samples = request(count=8).samples(ConstantSource((64, 64)))

    def judged(order, batch):
        metric = shapes_metric(evaluation)
        for start in range(0, 8, batch):
            rows = order[start : start + batch]
            part = [samples[row] for row in rows]
            metric.update(judge(images[rows], part), part)
        return metric.compute()

    first = judged(list(range(8)), 8)
    other = judged([5, 2, 7, 0, 1, 3, 6, 4], 3)
    assert first.facts["predictions"] == other.facts["predictions"]
    assert (first.value, first.scored, first.unscored) == (other.value, 8, 0)


class Generator:
    """A generator with 60 % of the facts right: its image follows from the sample's prompt and noise seed."""

    def __init__(self, prompt_set):
        self.prompts = prompt_set.prompts

    def draw(self, sample, seed):
        return draw(self.prompts[sample.id], 0, 0.6, f"noise {seed}")

    def images(self, samples):
        return np.stack([self.draw(sample, sample.seed).image for sample in samples])


class BestOfFour(Generator):
    """Hands in the best of four seeds by all named facts."""

    def images(self, samples):
        rows = [[self.draw(sample, seed) for seed in (sample.seed, 1, 2, 3)] for sample in samples]
        return np.stack([max(row, key=lambda one: share(one.prompt, one.truth)).image for row in rows])


class OneNoise(Generator):
    """Takes one noise for all prompts, so that twins share their luck."""

    def images(self, samples):
        return np.stack([self.draw(sample, 0).image for sample in samples])


def test_images_that_the_judge_cannot_judge_are_named_and_counted(tiny, folder, monkeypatch):
    answer_by(monkeypatch, abstain)
    judged = ShapesScorer.__call__

    def all_but_one(scorer, images, items, given=None):
        rows = judged(scorer, images, items, given)
        return [
            Unjudged("no scene") if item.key == tiny.prompts[5].id else row
            for item, row in zip(items, rows, strict=True)
        ]

    monkeypatch.setattr(ShapesScorer, "__call__", all_but_one)
    record = runner.run(request(), PromptFolderSource(folder))
    assert record.unscored == ("image 5: no scene",)
    assert record.partial
    # The other images of the block are seen, and unscored with it.
    assert record.values["simpleeval_shapes_v1"].unscored == 4


def test_regeneration_tells_the_ruled_images_from_chosen_ones(tiny):
    samples = request().samples(ConstantSource((64, 64)))[::12]
    honest = Generator(tiny)

    def flagged(generator):
        found = differences(samples, generator, honest)
        assert list(found) == [sample.file for sample in samples]
        return guards.regeneration(found, len(samples)).flagged

    assert not flagged(honest)
    assert flagged(BestOfFour(tiny))
    assert flagged(OneNoise(tiny))
    assert set(differences(samples[:2], honest, ConstantSource((32, 32))).values()) == {255.0}


@pytest.fixture(scope="module")
def again(folder, tmp_path_factory):
    """Two folders of images made again: the same as handed in, and with one that differs."""
    root = tmp_path_factory.mktemp("again")
    for name in ("same", "other"):
        for number, path in enumerate(sorted(folder.rglob("*.png"))[:3]):
            image = np.asarray(Image.open(path))
            out = root / name / path.relative_to(folder)
            out.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image if name == "same" or number else np.roll(image, 9, axis=1)).save(out)
    return root


def test_a_run_compares_images_that_were_sampled_again(tiny, folder, again, monkeypatch, tmp_path):
    answer_by(monkeypatch, abstain)
    claim = tmp_path / "claim.yaml"
    words = ["run", str(folder), "--axis", "t2i", "--metrics", "simpleeval_shapes_v1", "--claim", str(claim), "--json"]

    def found(name):
        claim.write_text(f"layout: tiny\nagain: {again / name}\n")
        result = CliRunner().invoke(app, words)
        return json.loads(result.stdout)["extra"]["facts"]["simpleeval_shapes_v1"]

    honest, chosen = found("same"), found("other")
    assert honest["guards"]["G9"] == {"name": "regen", "value": 1.0, "z": None, "flagged": False, "note": "3/3"}
    assert (chosen["guards"]["G9"]["note"], chosen["status"]) == ("2/3", "flagged: regen")
    (tmp_path / "x.png").write_bytes(next(again.rglob("*.png")).read_bytes())
    claim.write_text("layout: tiny\nagain: .\n")
    result = CliRunner().invoke(app, words)
    assert "holds no image of this set" in str(result.exception)


def test_images_that_do_not_cover_the_prompts_are_refused_or_allowed(tiny, folder, monkeypatch, tmp_path):
    answer_by(monkeypatch, abstain)
    images = shutil.copytree(folder, tmp_path / "images")
    (images / f"{tiny.prompts[5].id}/0.png").unlink()
    (tmp_path / "claim.yaml").write_text("layout: tiny\n")
    words = ["run", str(images), "--axis", "t2i", "--metrics", "simpleeval_shapes_v1", "--json"]
    words += ["--claim", str(tmp_path / "claim.yaml"), "--out", str(tmp_path / "r.json")]
    refused = CliRunner().invoke(app, words)
    assert f"1 of 144 images are missing, of 1 prompts ({tiny.prompts[5].id})" in str(refused.exception)
    assert not (tmp_path / "r.json").exists()
    allowed = CliRunner().invoke(app, [*words, "--allow-partial"])
    assert allowed.exit_code == 0, allowed.output
    record = load(tmp_path / "r.json")
    assert record.partial
    assert tiny.prompts[5].id in record.unscored[0]


def _flat(folder):
    return FolderSource(next(path.parent for path in folder.rglob("0.png")))


def test_what_a_request_says_of_its_generator_reaches_the_report(monkeypatch):
    told = []
    monkeypatch.setattr(score.scorecard, "ScoreCard", lambda *given: told.append(given))
    monkeypatch.setattr(score, "SetAnswers", lambda *given: None)
    facts = {"weights_digest": "ab" * 32, "beacon": "round 7", "public": (0.5, 0.1)}
    facts |= {"networks": ("clip",), "again": {"a/0": 1.0}}
    choice = PromptChoice(name="simpleeval_shapes_v1", layout="quick", claim=facts)
    shapes_metric(request(prompts=choice)).card()
    ((_, _, claim, _),) = told
    assert claim.model_dump(exclude={"commitment"}) == facts


def test_verdicts_tell_of_each_image_what_was_asked_and_what_was_seen(monkeypatch):
    def wrong(prompt):
        seen = [(question.answer + 1) % len(question.options) for question in prompt.questions]
        return np.tile(np.array(seen, np.int8), (2, 4, 1))

    answer_by(monkeypatch, wrong)
    asked = request(prompts=PromptChoice(name="simpleeval_shapes_v1", layout="quick"), count=8)
    metric = shapes_metric(asked)
    samples = asked.samples(ConstantSource((64, 64)))
    metric.update(judge(np.zeros((8, 64, 64, 3), np.uint8), samples), samples)
    verdicts = metric.compute().facts["verdicts"]
    prompts = build("shapes", "public-0", "quick").prompts
    assert list(verdicts) == [str(place) for place in range(8)]
    for place in range(8):
        questions = [question for question in prompts[place // 2].questions if question.answer >= 0]
        assert verdicts[str(place)] == [
            [one.slot, one.options[one.answer], one.options[(one.answer + 1) % len(one.options)]] for one in questions
        ]
