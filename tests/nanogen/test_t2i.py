"""Text-to-image end to end at tiny size: the same loop, sampler and evaluation path, told apart by config alone."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from encoders import save_encoder
from PIL import Image
from tiny import MODEL, QUIET, losses
from typer.testing import CliRunner

import diffusionbench as db
import nanogen
from diffusionbench.errors import RequestError, UserError
from diffusionbench.record import load
from diffusionbench.sample import noise_seed
from nanogen.cli import app
from nanogen.config import compose, differences
from nanogen.evaluate import evaluate_run

pytest.importorskip("transformers", reason="text encoders need the extra t2i")

# One block of the prompt set: the smallest number of images that can be scored.
BLOCK = 8


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"), "bert")


@pytest.fixture(scope="module")
def words(encoder):
    return [
        *MODEL,
        *(word for word in QUIET if not word.startswith("eval.metrics")),
        f"condition.encoder={encoder}",
        "train.batch_size=8",
        "optim.warmup=0 steps",
        f"eval.num_samples={BLOCK}",
    ]


def call(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture(scope="module")
def run(words, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    call("train", "--task", "shapes", "--run", path, *words, "train.duration=3 steps")
    return path


@pytest.mark.parametrize("first, second", [("digits", "shapes"), ("imagenet256", "t2i256")])
def test_a_task_is_switched_by_a_dozen_lines_of_config(first, second):
    one = compose(first)
    two = compose(second, one.choice["method"], one.choice["scale"])
    changed = differences(one.config, two.config)
    assert 1 < len(changed) <= 12
    assert {key.split(".")[0] for key in changed} <= {"data", "condition", "train", "optim", "guidance", "eval"}
    told = json.loads(call("show", "--diff", first, second, "--json"))
    assert told == {key: json.loads(json.dumps(pair)) for key, pair in changed.items()}
    assert f"{len(changed)} keys differ" in call("show", "--diff", first, second)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["eval.metrics=[fd_digits]", "eval.reference=digits"], "axis 't2i' needs a prompt set"),
        (["eval.metrics=[simpleeval_shapes_v1,accuracy_digits]"], "'accuracy_digits' judges images by the classes"),
        (
            ["eval.axis=class_conditional", "eval.metrics=[fd_digits]", "eval.reference=digits"],
            "condition.kind 'text' draws prompts",
        ),
        (["eval.axis=class_conditional"], "'simpleeval_shapes_v1' judges images by the prompts"),
    ],
)
def test_a_run_is_scored_by_what_it_draws(run, overrides, message):
    before = sorted(run.rglob("*"))
    with pytest.raises(UserError, match=re.escape(message)):
        evaluate_run(run, overrides, False, None)
    assert sorted(run.rglob("*")) == before


def test_a_run_trains_scores_and_reports(run):
    (file,) = (run / "evals").glob("*.json")
    record = load(file)
    assert record.protocol.axis == "t2i"
    assert record.values["simpleeval_shapes_v1"].scored == BLOCK
    assert file.stem == record.id
    verdicts = record.extra["facts"]["simpleeval_shapes_v1"]["verdicts"]
    assert list(verdicts) == [str(place) for place in range(BLOCK)]
    assert all(asked and what for rows in verdicts.values() for what, asked, _ in rows)
    page = call("report", run).strip()
    text = Path(page).read_text(encoding="utf-8")
    assert text.count("<figure><img src") >= BLOCK
    assert "seen: unclear" in text
    assert "colour1" not in text


def test_the_first_images_of_an_evaluation_follow_the_prompt_sets_seeds(run, tmp_path):
    """Noise is fixed by the set, so that choosing the best of several would show."""
    import torch

    from nanogen.evaluate import NetworkSource, evaluation_of
    from nanogen.pipeline import load
    from nanogen.rng import SeededNoise

    weights = sorted((run / "checkpoints").glob("*/ema.safetensors"))[-1]
    loaded = load(weights, None, "cpu", "float32")
    source = NetworkSource(loaded.pipeline(["eval.seed=0", "eval.batch_size=4"]), "test")
    samples = evaluation_of(loaded.config, loaded.components, "test", None).samples(source)
    noise = SeededNoise([samples[0].seed]).normal("image", (3, 24, 24))
    assert torch.equal(noise[0], torch.randn(3, 24, 24, generator=torch.Generator().manual_seed(samples[0].seed)))
    together, alone = source.images(samples[:3]), source.images(samples[2:3])
    assert np.abs(together[2].astype(int) - alone[0]).max() <= 1
    assert not np.array_equal(together[0], together[1])
    # The seed of the set rules, and neither the place nor the evaluation's own seed.
    moved = [dataclasses.replace(samples[0], id=9)]
    other = NetworkSource(loaded.pipeline(["eval.seed=5", "eval.batch_size=4"]), "test")
    assert np.array_equal(other.images(moved), source.images(samples[:1]))


def test_prompts_are_drawn_and_scored_from_python(run, tmp_path):
    texts = ["two red circles", "a blue square above a green triangle"]
    call("sample", run, "--prompt", texts[0], "--num", 2, "--seed", 3, "--out", tmp_path / "images.npz")
    with np.load(tmp_path / "images.npz") as archive:
        images = archive["arr_0"]
    model = nanogen.load(run)
    seeds = [noise_seed(3, "sample", place) for place in range(2)]
    assert np.array_equal(model.sample(prompts=texts[:1] * 2, seeds=seeds), images)
    other = model.sample(prompts=texts, seeds=seeds)
    assert other.shape == images.shape
    with pytest.raises(RequestError, match="draws captions"):
        model.sample(labels=[1])
    own = evaluate_run(run, [], tuned=False, out=tmp_path / "own.json")
    ask = {"metrics": "simpleeval_shapes_v1", "num": BLOCK, "batch": model.loaded.config.eval.batch_size}
    assert db.evaluate(model.sample, **ask).provenance.images_digest == own.provenance.images_digest


def test_interrupted_training_continues_to_the_same_weights(words, run, tmp_path):
    path = tmp_path / "again"
    more = ["train.checkpoint_every=1 steps", "eval.metrics=[]"]
    call("train", "--task", "shapes", "--run", path, *words, *more, "train.duration=3 steps")
    for checkpoint in sorted((path / "checkpoints").iterdir())[-1:]:
        shutil.rmtree(checkpoint)
    before = losses(path)
    call("train", "--task", "shapes", "--run", path, *words, *more, "train.duration=3 steps")
    assert losses(path) == before == losses(run)
    ends = [sorted((one / "checkpoints").iterdir())[-1] / "ema.safetensors" for one in (path, run)]
    from nanogen.checkpoint import read_weights

    (left, _), (right, _) = map(read_weights, ends)
    assert all(np.array_equal(left[name], right[name]) for name in left)


def test_a_cache_gives_the_same_losses_and_the_encoder_stays_closed(words, run, tmp_path, monkeypatch):
    monkeypatch.setattr("nanogen.datasets.shapes.CAPTIONS", 64)
    from nanogen.text.encoder import TextEncoder

    plain, cached, text = (tmp_path / name for name in ("plain", "cached", "text"))
    call("train", "--task", "shapes", "--run", plain, *words, "train.duration=3 steps", "eval.metrics=[]")
    said = call("prepare", "text", "--task", "shapes", "--out", text, f"condition.encoder={words_encoder(words)}")
    assert "distinct captions" in said
    monkeypatch.setattr(TextEncoder, "_model", property(lambda self: pytest.fail("the encoder was opened")))
    # The evaluation's prompts are in the cache too.
    call("train", "--task", "shapes", "--run", cached, *words, "train.duration=3 steps", f"condition.cache={text}")
    assert losses(cached) == pytest.approx(losses(plain), rel=2e-3)


def words_encoder(words: list[str]) -> str:
    return next(word.partition("=")[2] for word in words if word.startswith("condition.encoder="))


def test_a_text_step_is_timed_without_data_or_encoder():
    tiny = [*MODEL, "train.batch_size=2", "data.image_size=32"]
    arguments = ["--task", "t2i256", "--method", "pixel-v", "--synthetic", "--text-tokens", 12, "--steps", 1]
    told = json.loads(call("bench", *arguments, "--warmup", 0, *tiny, "train.compile=false"))
    assert told["text_tokens"] == 12
    assert told["model_gflops_per_image"] > 0


def test_a_run_keeps_to_the_encoder_it_was_trained_with(words, tmp_path, monkeypatch, capsys):
    mine = save_encoder(tmp_path / "encoder", "bert")
    changed = [word for word in words if not word.startswith("condition.encoder")] + [f"condition.encoder={mine}"]
    arguments = ["train", "--task", "shapes", "--run", tmp_path / "run", *changed, "train.duration=1 steps"]
    call(*arguments, "eval.metrics=[]")
    save_encoder(mine, "bert", seed=1)
    from nanogen.cli import main

    for request in (["sample", tmp_path / "run", "--prompt", "a circle"], [*arguments, "eval.metrics=[]"]):
        monkeypatch.setattr("sys.argv", ["nanogen", *map(str, request)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert re.search(r"trained with (text encoder|condition digest) \w+, found", capsys.readouterr().err)


def test_prompts_become_images_that_carry_them(run, tmp_path):
    grid = tmp_path / "grid.png"
    call("sample", run, "--prompt", "two red circles above a blue square", "--num", 4, "--guidance", 6, "--out", grid)
    facts = Image.open(grid).text
    assert "two red circles above a blue square" in json.dumps(facts)
    file = tmp_path / "prompts.txt"
    file.write_text("a red circle\n\na blue square\n", encoding="utf-8")
    call("sample", run, "--prompts", file, "--num", 4, "--out", tmp_path / "folder")
    names = sorted(path.relative_to(tmp_path / "folder").as_posix() for path in (tmp_path / "folder").rglob("*.png"))
    assert names == ["0/000000.png", "0/000002.png", "1/000001.png", "1/000003.png"]
    assert "a blue square" in json.dumps(Image.open(tmp_path / "folder" / names[2]).text)
    call("sample", run, "--prompts", file, "--num", 2, "--out", tmp_path / "images.npz")
    with np.load(tmp_path / "images.npz") as archive:
        assert archive["arr_1"].tolist() == ["a red circle", "a blue square"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["sample", "{run}", "--labels", "0-9"], "this network draws captions"),
        (["sample", "{run}"], "none was given. Use --prompt"),
        (["sample", "{run}", "--prompts", "{tmp}/absent.txt"], "No such file"),
        (["sample", "{run}", "--prompts", "{tmp}/twice.txt"], "line 2 repeats line 1 ('a cat')"),
        (["sample", "{run}", "--prompts", "{tmp}/latin.txt"], "it is not UTF-8"),
        (["sample", "{run}", "--prompts", "{tmp}/empty.txt"], "holds no prompt"),
        (["train", "--task", "shapes", "condition.encoder=nothing"], "unknown text encoder 'nothing'"),
        (["train", "--task", "shapes", "condition.encoder=null"], "condition.encoder is not set"),
        (["train", "--task", "shapes", "condition.kind=picture"], "unknown condition kind 'picture'"),
        (["train", "--task", "shapes", "data.image_size=48"], "drawn at 24, 32, 64, 128 pixels"),
        (["train", "--task", "digits", "condition.kind=text", "condition.encoder=minilm-l6"], "has no captions"),
        (["train", "--task", "shapes", "condition.kind=class"], "data has no labels"),
        (["eval", "{run}", "--metrics", "fd_digits"], "axis 't2i' needs a prompt set"),
        (["eval", "{run}", "eval.prompt_seed=mine"], "'mine' is no seed of SimpleEval"),
        (["show", "--diff", "digits", "shape"], "unknown task 'shape'"),
        (["prepare", "text", "--task", "shapes", "--out", "text", "--dtype", "float64"], "float64: unknown"),
        (["prepare", "text", "--task", "digits", "--out", "text"], "condition.encoder is not set"),
    ],
)
def test_bad_requests_end_in_one_sentence(run, tmp_path, arguments, message, capsys, monkeypatch):
    (tmp_path / "twice.txt").write_text("a cat\na cat\n", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    filled = [word.format(run=run, tmp=tmp_path) for word in arguments]
    monkeypatch.setattr("sys.argv", ["nanogen", *filled])
    from nanogen.cli import main

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "outputs").exists()
    assert not (tmp_path / "grid.png").exists()
