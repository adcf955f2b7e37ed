"""What is registered under each metric's name: its formula, the outputs and the reference it reads, its direction.

The formulas have tests of their own; here they are tied to the names. A metric without an entry fails.
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from making import make_metric, update

from diffusionbench import runner
from diffusionbench.catalog import asked_metrics
from diffusionbench.judges import JUDGES, NETWORKS
from diffusionbench.judges.digits import DigitsJudge
from diffusionbench.metrics import METRICS
from diffusionbench.metrics import kid as kid_module
from diffusionbench.metrics.fdr import FDR_CONSTANTS
from diffusionbench.metrics.frechet import frechet_distance
from diffusionbench.metrics.inception_score import inception_score
from diffusionbench.metrics.kid import kid
from diffusionbench.metrics.mind import mind
from diffusionbench.metrics.precision_recall import precision_recall
from diffusionbench.moments import moments
from diffusionbench.references import digits
from diffusionbench.references.digits import DigitsReference
from diffusionbench.sample import Sample, plain_item
from diffusionbench.source import ArraySource

COUNT, WIDTH, CLASSES = 1010, 8, 10
SUBSETS = 2


@pytest.fixture(autouse=True)
def few_subsets(monkeypatch):
    """The rule is the same for 2 subsets as for the published 100."""
    assert inspect.signature(kid).parameters["subsets"].default == kid_module._SUBSETS == 100
    monkeypatch.setattr(kid_module, "_SUBSETS", SUBSETS)


class Real:
    """A reference whose moments are not those of its features, so that taking the wrong ones shows."""

    name = "real"
    digest = "3" * 64

    def features(self, judge):
        return np.random.default_rng(1).normal(0.4, 1.2, (COUNT, WIDTH)).astype(np.float32)

    def moments(self, judge):
        return np.full(WIDTH, 0.7), 2.0 * np.eye(WIDTH)


def frechet(outputs, labels, reference, judge):
    return frechet_distance(*moments(outputs["features"]), *reference.moments(judge))


def kernel(size):
    return lambda outputs, labels, reference, judge: kid(outputs["features"], reference.features(judge), SUBSETS, size)[
        0
    ]


def score(outputs, labels, reference, judge):
    return inception_score(outputs["logits"])[0]


def precision(outputs, labels, reference, judge):
    return precision_recall(outputs["features"], reference.features(judge), 3)[0]


def monge(outputs, labels, reference, judge):
    return mind(outputs["features"], reference.features(judge))[0]


def over(constant):
    return lambda *given: frechet(*given) / constant


def mean(outputs, labels, reference, judge):
    return outputs["value"].mean()


def variant(name):
    return lambda outputs, labels, reference, judge: inception_score(outputs["logits"], name)[0]


def recall(outputs, labels, reference, judge):
    return precision_recall(outputs["features"], reference.features(judge), 3)[1]


def accuracy(outputs, labels, reference, judge):
    return (outputs["logits"].argmax(1) == labels).mean()


# Of the metrics that a judge brings by its row: formula, whether higher is better.
FAMILY = {
    "fd": (frechet, False), "mind": (monge, False), "precision": (precision, True), "recall": (recall, True),
    "is": (score, True), "accuracy": (accuracy, True),
}  # fmt: skip
# Formula, judge, whether higher is better. A metric that a new judge brings stands here already.
TABLE = {
    **{
        f"{kind}_{name}": (formula, name, higher)
        for name, judge in JUDGES.own.items()
        for kind, (formula, higher) in {**FAMILY, "kd": (kernel(judge.kid_subset), False)}.items()
        if f"{kind}_{name}" in METRICS.own
    },
    "fid": (frechet, "inception", False),
    "kid_mean": (kernel(1000), "inception", False),
    "inception_score": (score, "inception", True),
    "inception_score_torch_fidelity": (variant("torch_fidelity"), "inception", True),
    "inception_score_adm": (variant("adm"), "inception", True),
    "sfid": (frechet, "inception_spatial", False),
    "precision": (precision, "inception", True),
    "recall": (recall, "inception", True),
    "kd_digits": (kernel(200), "digits", False),
    "kd_efflite0": (kernel(1000), "efflite0", False),
    "rfid": (frechet, "inception", False),
    "rfd_efflite0": (frechet, "efflite0", False),
    **{key: (mean, key, key in ("psnr", "ssim")) for key in ("psnr", "ssim", "lpips", "pd_efflite0")},
    **{f"fdr_{name}": (over(constant), name, False) for name, constant in FDR_CONSTANTS.items()},
    "fdr_convnext_upstream": (over(FDR_CONSTANTS["convnext"]), "convnext_upstream", False),
    "fdr_siglip_upstream": (over(FDR_CONSTANTS["siglip"]), "siglip_upstream", False),
    # Sizes of subsets are final.
    **{f"kd_{row.name}": (kernel(1000), row.name, False) for row in NETWORKS},
}
# They judge pictures by prompts; tests/contracts/test_metrics_of_prompts.py has an entry for the code of each.
ON_PROMPTS = {key for key in METRICS.with_code if METRICS[key].items == "prompts"}
# tests/diffusionbench/test_fdr.py ties it to the six.
SEVERAL_JUDGES = {"fdr6", "fdr6_upstream"}
SPREADS = {"kid_mean": "kid_std", **{key: f"{key}_std" for key in TABLE if key.startswith("kd_")}}


def pytest_generate_tests(metafunc):
    if "key" in metafunc.fixturenames:
        metafunc.parametrize("key", TABLE)


def test_every_metric_of_the_package_has_an_entry_and_no_other():
    own = {key for key, row in METRICS.own.items() if row.load}
    missing, unknown = own - TABLE.keys() - ON_PROMPTS - SEVERAL_JUDGES, TABLE.keys() - METRICS.keys()
    assert not missing, f"give {sorted(missing)} an entry in TABLE of this test: (formula, judge, higher is better)"
    assert not unknown, f"{sorted(unknown)} in TABLE of this test are no metrics"


def test_a_name_stands_for_its_formula(key):
    formula, judge, higher = TABLE[key]
    spec = METRICS[key]
    rng = np.random.default_rng(2)
    outputs = {
        "features": rng.normal(size=(COUNT, WIDTH)).astype(np.float32),
        "logits": rng.normal(size=(COUNT, CLASSES)).astype(np.float32) * 2,
        "value": rng.normal(size=(COUNT, 1)),
    }
    labels = np.arange(COUNT) % CLASSES
    metric = make_metric(key, Real())
    update(metric, outputs, [Sample(index, plain_item(int(label))) for index, label in enumerate(labels)])
    estimate = metric.compute()
    assert estimate.value == pytest.approx(formula(outputs, labels, Real(), None), rel=1e-6)
    assert (spec.key, spec.judges, spec.higher_is_better) == (key, (judge,), higher)
    assert (spec.items == "classes") == (formula is accuracy)
    if key in SPREADS:
        # The population deviation over subsets, as published.
        spread = kid(outputs["features"], Real().features(None), SUBSETS, JUDGES[judge].kid_subset)[1]
        assert estimate.extra == {SPREADS[key]: pytest.approx(spread, rel=1e-5)}


def test_a_record_holds_each_value_under_its_own_name(ask):
    images, labels = digits.read("held_out")
    keys = tuple(key for key, (_, judge, _) in TABLE.items() if judge == "digits")
    shifted = (labels + (np.arange(len(labels)) % 4 == 0)) % 10
    record = runner.run(ask(metrics=keys, count=359), ArraySource(images, shifted, "held out, a quarter asked wrongly"))
    judge, reference = DigitsJudge(), DigitsReference()
    outputs = judge(images)
    for key in keys:
        wanted = TABLE[key][0](outputs, shifted, reference, judge)
        assert record.values[key].value == pytest.approx(wanted, rel=1e-4), key
    assert {name: used.digest for name, used in record.protocol.judges.items()} == {"digits": judge.digest}
    used = record.protocol.references["digits"]
    assert (used.name, used.digest) == ("digits", reference.digest)


def test_images_whose_features_are_not_finite_make_a_record_partial(ask, noise, monkeypatch):
    real = DigitsJudge.__call__

    def spoilt(self, images, *given):
        outputs = {name: rows.copy() for name, rows in real(self, images).items()}
        if len(images) == 20:
            outputs["logits"][4] = np.nan
        return outputs

    source = ArraySource(noise(20), np.arange(20) % 10, "noise")
    assert not runner.run(ask(), source).partial
    monkeypatch.setattr(DigitsJudge, "__call__", spoilt)
    record = runner.run(ask(), source)
    assert record.partial
    assert (record.values["accuracy_digits"].scored, record.values["accuracy_digits"].unscored) == (19, 1)
    assert record.unscored == ("image 4: what its judge returned for 'accuracy_digits' is not finite",)


def test_a_name_may_stand_for_a_headline_or_for_several_metrics():
    six = tuple(f"mind_{key}" for key in FDR_CONSTANTS)
    assert asked_metrics(["mind6"]) == six
    assert all(METRICS[key].load for key in six)
    assert asked_metrics(["geneval", "fdr_clip_cls", "fid", "odd"]) == ("geneval_overall", "fdr_clip", "fid", "odd")
