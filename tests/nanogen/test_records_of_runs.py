"""Records of a run: one for each thing that was measured, none lost, and a command that measures it again."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny

from diffusionbench.record import Record, load, record_id
from diffusionbench.references import digits
from nanogen import cli, evaluate
from nanogen.losses import LOSSES, LossOptions, LossSpec
from nanogen.losses.loss import ExtraLoss
from nanogen.train import train

SCORED = ("eval.metrics=[accuracy_digits]", "eval.reference=digits", "eval.num_samples=20", "eval.tuned_scale=1.5")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "my run"
    train(tiny(2, *SCORED, "train.checkpoint_every=1 steps", "eval.every=1 steps"), path, "cpu", ["test"])
    return path


@pytest.fixture
def nanogen(monkeypatch, capsys):
    """Run a command in this process; gives exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nanogen", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return (int(stopped.value.code or 0), *capsys.readouterr())

    return call


VARIANTS = [
    ("--metrics", "is_digits"),
    ("--metrics", "accuracy_digits,is_digits"),
    ("--metrics", "fd_digits", "--num", 80),
    ("--metrics", "fd_digits", "--num", 80, "eval.reference=REAL"),
    ("--guidance", 2),
    ("--guidance", 2, "guidance.interval=[0.1, 0.9]"),
    ("--tuned",),
    ("sampler.shift=2",),
    ("sampler.num_steps=3",),
    ("sampler.name=heun",),
    ("--seed", 1),
    ("--num", 21, "eval.batch_size=7"),
    ("--step", 1, "--seed", 2),
]


def files(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "evals").glob("*.json")}


def test_every_measurement_has_its_own_record_and_its_command_gives_it_again(trained, tmp_path, nanogen):
    real = tmp_path / "my real images.npz"
    np.savez(real, arr_0=digits.read("train")[0][:200])
    run = Path(shutil.copytree(trained, tmp_path / "my run"))
    held = files(run)
    assert len(held) == 2, "one for each step that was evaluated in training"
    found = []
    for words in VARIANTS:
        given = [str(word).replace("REAL", json.dumps(str(real))) for word in words]
        code, out, err = nanogen("eval", run, "--json", *given)
        assert code == 0, (words, err)
        found.append(json.loads(out)["id"])
        after = files(run)
        assert after.keys() - held.keys() == {f"{found[-1]}.json"}, words
        assert {name: after[name] for name in held} == held, "an earlier record has changed"
        held = after
    assert len({*found}) == len(VARIANTS)
    for place, name in enumerate(held):
        record = load(run / "evals" / name)
        assert record.id == record_id(record) == Path(name).stem
        again = tmp_path / f"{place}.json"
        assert nanogen(*shlex.split(record.provenance.command)[1:], "--out", again)[0] == 0, record.provenance.command
        assert load(again).id == record.id, record.provenance.command
        assert load(again).values == record.values
    assert files(run) == held


def test_a_record_that_is_cut_off_gives_way_and_is_said(trained, tmp_path, nanogen):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (name,) = [record.id for record in evaluate.records_of(run) if record.provenance.step == 2]
    file = run / "evals" / f"{name}.json"
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    code, _, err = nanogen("report", run)
    assert (code, "1 record(s) cannot be read and are left out" in err) == (0, True)
    assert nanogen("eval", run)[0] == 0
    assert load(file).values["accuracy_digits"] == load_bytes(whole).values["accuracy_digits"]
    assert len(files(run)) == 2


def load_bytes(content: bytes) -> Record:
    return Record.model_validate_json(content)


@pytest.mark.parametrize("step, words", [(7, "keeps no checkpoint of step 7; it keeps 1, 2"), (1, "is damaged")])
def test_a_step_that_is_not_kept_is_refused(trained, tmp_path, nanogen, step, words):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / "checkpoints" / "step-00000001" / "ema.safetensors").write_bytes(b"short")
    code, _, err = nanogen("eval", run, "--step", step)
    assert (code, words in err, "Traceback" in err) == (2, True, False), err


def test_metrics_of_prompts_are_refused_for_classes(trained, nanogen):
    code, out, err = nanogen("eval", trained, "--metrics", "simpleeval_shapes_v1")
    assert (code, out) == (2, "")
    assert "judges images by the prompts that were asked for, and axis 'class_conditional' asks for classes" in err


class WithDigits(LossOptions):
    @property
    def networks(self):
        return ("digits",)


class Nothing(ExtraLoss):
    """An extra loss that says it trains with the digits' judge, and changes nothing."""

    def forward(self, p):
        return {}


def test_a_method_that_was_trained_with_a_judge_is_flagged_on_its_metrics(tmp_path, monkeypatch, nanogen):
    row = LossSpec(title="nothing", options=WithDigits, load=f"{__name__}:Nothing")
    monkeypatch.setitem(LOSSES._rows, "nothing", row)
    train(tiny(1, *SCORED, "losses.nothing.weight=1"), tmp_path / "run", "cpu", ["test"])
    (record,) = evaluate.records_of(tmp_path / "run")
    assert record.trained_with == ("digits",)
    value = record.values["accuracy_digits"]
    assert (value.status, value.reason) == ("flagged", "trained on the metric")
    assert nanogen("report", tmp_path / "run")[0] == 0
    assert "flagged: trained on the metric" in (tmp_path / "run" / "report.html").read_text()
