"""Features are extracted in float32 proper, whatever the program around has chosen, and its choice is kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffusionbench import runner
from diffusionbench.judges import JUDGES, digits, inception
from diffusionbench.judges.digits import DigitsJudge
from diffusionbench.judges.float32 import features_of, in_float32
from diffusionbench.judges.inception import Inception
from diffusionbench.references import opening
from diffusionbench.references.digits import DigitsReference
from diffusionbench.references.opening import ImageReference
from diffusionbench.source import ArraySource

BACKENDS = torch.backends
PARTS = {
    "cuda.matmul": BACKENDS.cuda.matmul,
    "cudnn.conv": BACKENDS.cudnn.conv,
    "cudnn.rnn": BACKENDS.cudnn.rnn,
    "mkldnn.matmul": BACKENDS.mkldnn.matmul,
    "mkldnn.conv": BACKENDS.mkldnn.conv,
    "mkldnn.rnn": BACKENDS.mkldnn.rnn,
}
WHOLE = {"all": BACKENDS, "cuda": BACKENDS.cudnn}
SETTINGS = {
    "torch's own": lambda: None,
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "products": lambda: setattr(BACKENDS.cuda.matmul, "allow_tf32", True),
    "no convolutions": lambda: setattr(BACKENDS.cudnn, "allow_tf32", False),
    "new switch, products": lambda: setattr(BACKENDS.cuda.matmul, "fp32_precision", "tf32"),
    "new switch, CPU": lambda: setattr(BACKENDS.mkldnn.matmul, "fp32_precision", "bf16"),
    "new switch, convolutions": lambda: setattr(BACKENDS.cudnn.conv, "fp32_precision", "ieee"),
    "new switch, everything": lambda: setattr(BACKENDS, "fp32_precision", "tf32"),
    "new switch, nothing": lambda: setattr(BACKENDS, "fp32_precision", "ieee"),
    "new switch, a GPU": lambda: setattr(BACKENDS.cudnn, "fp32_precision", "tf32"),
}


def older(read):
    """torch refuses to say where its older and newer switches disagree."""
    try:
        return read()
    except RuntimeError:
        return "mixed"


def state() -> dict[str, object]:
    return {
        **{name: switch.fp32_precision for name, switch in (PARTS | WHOLE).items()},
        "precision": older(torch.get_float32_matmul_precision),
        "products": older(lambda: BACKENDS.cuda.matmul.allow_tf32),
        "convolutions": older(lambda: BACKENDS.cudnn.allow_tf32),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
    }


EXACT = {**dict.fromkeys(PARTS, "ieee"), **dict.fromkeys(WHOLE, "none")} | {
    "precision": "highest",
    "products": False,
    "convolutions": False,
    "autocast": (False, False),
}


@pytest.fixture(params=SETTINGS)
def chosen(request):
    """What a program may have set; undone after the test."""
    before = [(switch, switch.fp32_precision) for switch in (PARTS | WHOLE).values()]
    SETTINGS[request.param]()
    yield
    torch.set_float32_matmul_precision("highest")
    BACKENDS.cudnn.allow_tf32 = True
    for switch, value in before:
        switch.fp32_precision = value


class Observer(DigitsJudge):
    """An extractor of somebody else, which looks at the settings while it works."""

    seen: list[dict[str, object]] = []
    fails = False

    def __call__(self, images, *given):
        self.seen.append(state())
        if self.fails:
            raise KeyError("broken")
        rows = np.ones((len(images), 64), np.float32)
        return {"features": rows, "logits": rows[:, :10]}

    def self_test(self):
        self.seen.append(state())
        return 0.0


@pytest.fixture
def observed(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(JUDGES, "load", lambda name: Observer)
    Observer.seen.clear()
    yield Observer.seen
    Observer.fails = False


def test_an_extractor_sees_float32_proper_and_the_settings_come_back(chosen, observed, ask, noise, tmp_path, write):
    before = state()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        runner.run(ask(metrics=("is_digits",)), ArraySource(noise(20), np.arange(20) % 10, "noise"))
        ImageReference(write(tmp_path / "real", noise(5))).features(Observer())
        DigitsReference().features(Observer())
        assert torch.is_autocast_enabled("cpu")
    assert state() == before
    assert len(observed) > 8
    assert all(seen == EXACT for seen in observed)


def test_the_settings_come_back_where_an_extractor_fails(chosen, observed, noise):
    Observer.fails = True
    before = state()
    with pytest.raises(KeyError, match="broken"):
        features_of(Observer(), noise(2))
    assert observed == [EXACT]
    assert state() == before


def test_regions_lie_inside_each_other(chosen):
    before = state()
    with in_float32(), in_float32():
        assert state() == EXACT
    assert state() == before


def test_a_source_keeps_the_precision_that_the_program_chose(observed, ask, noise):
    """The region holds extractors and metrics alone: a generator makes its images as it was trained to."""
    sampled = []

    class Generator(ArraySource):
        def images(self, samples):
            sampled.append(state())
            return super().images(samples)

    before = state()
    runner.run(ask(metrics=("is_digits",)), Generator(noise(20), np.arange(20) % 10, "noise"))
    assert sampled
    assert all(one == before for one in sampled)


@pytest.mark.parametrize("name", ["digits", "inception"])
def test_shipped_extractors_give_the_same_numbers_under_any_setting(name, noise, inception_installed):
    extractor = {"digits": DigitsJudge, "inception": Inception}[name]("cpu")
    plain = extractor(noise(3))
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            fast = extractor(noise(3))
    finally:
        torch.set_float32_matmul_precision("highest")
    for key, rows in plain.items():
        assert fast[key].dtype == np.float32
        np.testing.assert_array_equal(fast[key], rows)


def test_precision_is_part_of_the_digest_and_of_what_is_cached(
    monkeypatch, noise, write, tmp_path, inception_installed
):
    kinds = {digits: DigitsJudge, inception: Inception}
    before = {kind: kind("cpu").digest for kind in kinds.values()}
    for module, kind in kinds.items():
        monkeypatch.setattr(module, "PRECISION", "bfloat16")
        assert kind("cpu").digest != before[kind]
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))
    reference, judge = ImageReference(write(tmp_path / "real", noise(5))), DigitsJudge()
    reference.features(judge)
    monkeypatch.setattr(opening, "PRECISION", "bfloat16")
    reference.features(judge)
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 2
