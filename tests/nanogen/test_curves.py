"""Reference curves: made of runs, read back, and left where a run leaves them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny
from typer.testing import CliRunner

from diffusionbench.errors import CheckpointError, RequestError
from nanogen.cli import app
from nanogen.config import to_yaml
from nanogen.curves import compare_curve, make_curve, read_curve, write_curve
from nanogen.train import train

STEPS = range(10, 410, 10)


def run(folder: Path, seed: int, losses=None, *overrides: str, **facts: str) -> Path:
    """A run folder with a log."""
    folder.mkdir(parents=True)
    config = tiny(400, f"seed={seed}", *overrides).config
    (folder / "config.yaml").write_text(to_yaml(config))
    (folder / "run.json").write_text(json.dumps({"task": "digits", "method": "pixel-v", "scale": "laptop"} | facts))
    drawn = np.random.default_rng(seed)
    losses = [1 / step**0.5 for step in STEPS] if losses is None else losses
    with (folder / "metrics.jsonl").open("w") as file:
        for step, loss in zip(STEPS, losses, strict=False):
            noisy = loss + 0.01 * drawn.standard_normal()
            norm = 1 + 0.1 * drawn.standard_normal()
            line = {"step": step, "loss": noisy, "loss/flow": noisy, "loss/other": 9.0, "grad_norm": norm}
            file.write(json.dumps(line) + "\n")
    return folder


@pytest.fixture
def curve(tmp_path):
    return make_curve([run(tmp_path / f"seed-{seed}", seed) for seed in (1, 2, 3)])


def test_a_curve_is_mean_and_deviation_over_seeds(curve, tmp_path):
    assert {key: curve[key] for key in ("task", "method", "scale")} == {
        "task": "digits",
        "method": "pixel-v",
        "scale": "laptop",
    }
    assert curve["seeds"] == [1, 2, 3]
    assert curve["steps"] == list(STEPS)
    logs = [
        [json.loads(line)["loss"] for line in (tmp_path / f"seed-{seed}" / "metrics.jsonl").read_text().splitlines()]
        for seed in (1, 2, 3)
    ]
    assert curve["loss"]["mean"] == pytest.approx(np.mean(logs, 0))
    # The variance at the first step is averaged with those of the five after it.
    assert curve["loss"]["sd"][0] == pytest.approx(np.sqrt(np.var(logs, axis=0, ddof=1)[:6].mean()))
    write_curve(curve, tmp_path / "curve.json")
    assert read_curve(tmp_path / "curve.json") == curve


def test_another_seed_follows(curve, tmp_path):
    followers = [run(tmp_path / f"like-{seed}", seed) for seed in range(10, 30)]
    assert all(compare_curve(one, curve).follows for one in followers)


def test_a_run_that_stops_learning_parts_where_it_does(curve, tmp_path):
    stuck = [1 / min(step, 100) ** 0.5 + (0.1 if step > 200 else 0) for step in STEPS]
    found = compare_curve(run(tmp_path / "stuck", 5, stuck), curve)
    assert found.parts["loss"] is not None
    assert 100 < found.parts["loss"] <= 210
    assert found.parts["grad_norm"] is None
    assert not found.follows
    assert "parts from the curve at step" in "".join(found.lines())


def test_one_odd_batch_is_no_parting_but_the_last_step_is(curve, tmp_path):
    losses = [1 / step**0.5 for step in STEPS]
    losses[20] += 1
    found = compare_curve(run(tmp_path / "spike", 6, losses), curve)
    assert found.follows
    assert found.largest["loss"][1] == STEPS[20]
    losses[20] -= 1
    losses[-1] += 1
    assert compare_curve(run(tmp_path / "end", 6, losses), curve).parts["loss"] == STEPS[-1]


def test_a_loss_that_is_no_number_parts(curve, tmp_path):
    losses = [1 / step**0.5 for step in STEPS]
    losses[-2:] = [float("nan")] * 2
    assert compare_curve(run(tmp_path / "nan", 7, losses), curve).parts["loss"] == STEPS[-2]


def test_other_settings_are_told(curve, tmp_path):
    other = run(tmp_path / "other", 8, None, "optim.lr=0.5", "log.sinks=[]", "eval.seed=9")
    assert compare_curve(other, curve).differing == ("optim.lr: 0.002 there, 0.5 here",)


def test_what_cannot_be_compared_is_refused(curve, tmp_path):
    with pytest.raises(RequestError, match="two runs or more, found 1"):
        make_curve([tmp_path / "seed-1"])
    with pytest.raises(RequestError, match="different seeds, found 1, 1"):
        make_curve([tmp_path / "seed-1", run(tmp_path / "again", 1)])
    with pytest.raises(RequestError, match=r"they differ in optim\.lr"):
        make_curve([tmp_path / "seed-1", run(tmp_path / "rate", 4, None, "optim.lr=1")])
    with pytest.raises(CheckpointError, match="not a run folder"):
        compare_curve(tmp_path / "nothing", curve)
    with pytest.raises(RequestError, match="different kinds: method mine and pixel-v"):
        compare_curve(run(tmp_path / "kind", 1, None, method="mine"), curve)
    with pytest.raises(RequestError, match="2 of the curve's 40 steps"):
        compare_curve(run(tmp_path / "short", 1, [1.0, 1.0]), curve)
    for text in ("", "[]", '{"steps": []}', json.dumps(curve | {"steps": [1]}), json.dumps(curve | {"loss": {}})):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(RequestError, match=r"bad\.json is no curve"):
            read_curve(tmp_path / "bad.json")
    with pytest.raises(RequestError, match="no file and no curve 'nothing'"):
        read_curve(Path("nothing"))
    (tmp_path / "bad.json").write_text('{"id": 1}')
    with pytest.raises(RequestError, match=r"no curve \(it has no 'steps'\)"):
        read_curve(tmp_path / "bad.json")


def test_the_command_ends_with_3_where_a_run_parts(tmp_path):
    folders = [str(run(tmp_path / f"seed-{seed}", seed)) for seed in (1, 2, 3)]
    file = tmp_path / "curve.json"
    made = CliRunner().invoke(app, ["check", "--make", *folders, "--out", str(file)])
    assert made.exit_code == 0, made.output
    good, bad = run(tmp_path / "good", 4), run(tmp_path / "bad", 5, [2.0 for _ in STEPS])
    assert CliRunner().invoke(app, ["check", str(good), "--like", str(file)]).exit_code == 0
    ended = CliRunner().invoke(app, ["check", str(bad), "--like", str(file)])
    assert ended.exit_code == 3
    assert "loss parts from the curve at step 10" in ended.stdout


def test_a_training_logs_what_a_curve_is_made_of(tmp_path):
    folders = [tmp_path / name for name in ("a", "b")]
    for seed, folder in enumerate(folders):
        train(tiny(3, f"seed={seed}"), folder, "cpu", [])
    curve = make_curve(folders)
    assert curve["steps"] == [1, 2, 3]
    lines = [json.loads(line) for line in (folders[0] / "metrics.jsonl").read_text().splitlines()]
    assert all(line["loss"] == pytest.approx(line["loss/flow"]) for line in lines)


def test_resuming_needs_a_run_and_continues_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    missing = CliRunner().invoke(app, ["train", "--resume", "outputs/nothing"])
    assert "does not exist" in str(missing.exception)
    assert not Path("outputs").exists()
    config = tiny(2, "train.checkpoint_every=2 steps")
    train(config, Path("run"), "cpu", [])
    done = CliRunner().invoke(app, ["train", "--resume", "run", "log.every=2 steps"])
    assert done.exit_code == 0, done.exception
    assert done.stdout.strip() == "run"
    other = CliRunner().invoke(app, ["train", "--resume", "run", "optim.lr=1"])
    assert "optim.lr" in str(other.exception)
    both = CliRunner().invoke(app, ["train", "--resume", "run", "--task", "digits"])
    assert "Leave the others out" in str(both.exception)
    for checkpoint in Path("run/checkpoints").iterdir():
        checkpoint.rename(tmp_path / checkpoint.name)
    assert "no checkpoint to resume from" in str(CliRunner().invoke(app, ["train", "--resume", "run"]).exception)
