"""A package from outside with faulty entries beside sound ones: the contracts fail for the first and pass for the rest.

Nothing is edited for them: an entry point is enough to be tested.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = '''
from dataclasses import replace

import numpy as np
import torch

from diffusionbench.axes import AxisSpec
from diffusionbench.axes.axis import Axis
from diffusionbench.judges import DIGITS
from diffusionbench.judges.digits import DigitsJudge
from diffusionbench.metrics import METRICS
from diffusionbench.metrics.accuracy import AccuracyMetric
from diffusionbench.sample import Sample, plain_item
from diffusionbench.schema import digest
from nanogen.datasets import DatasetRow
from nanogen.losses import LossOptions, LossSpec
from nanogen.losses.loss import ExtraLoss
from nanogen.objectives import FlowOptions, ObjectiveSpec
from nanogen.objectives.flow import Flow


class Named(FlowOptions):
    predict: str = "v"


class Flipped(Flow):
    def velocity(self, net, z, t, r, condition):
        return -super().velocity(net, z, t, r, condition)


class Restless(Flow):
    def loss(self, net, x, *given):
        return super().loss(net, x + 0.1 * torch.randn_like(x), *given)


RESTLESS = ObjectiveSpec(title="restless", options=Named, load="planted:Restless")
SOUND = ObjectiveSpec(title="sound", options=Named, load="nanogen.objectives.flow:Flow")
FLIPPED = ObjectiveSpec(title="flipped", options=Named, load="planted:Flipped")


class Small(ExtraLoss):
    taps = ("encoder",)

    def forward(self, p):
        return {"small": p.features["encoder"].square().flatten(1).mean(1)}


class Detached(Small):
    def forward(self, p):
        return {name: term.detach() for name, term in super().forward(p).items()}


class Weighted(Small):
    def forward(self, p):
        return {name: self.weight * term for name, term in super().forward(p).items()}


class Mapped(Small):
    def __init__(self, options, components):
        super().__init__(options, components)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, p):
        return {name: self.scale * term for name, term in super().forward(p).items()}


class Unregistered(Mapped):
    def __init__(self, options, components):
        super().__init__(options, components)
        self._hidden = [self._parameters.pop("scale")]

    @property
    def scale(self):
        return self._hidden[0]


SMALL, DETACHED, WEIGHTED, MAPPED, UNREGISTERED = (
    LossSpec(title=name, options=LossOptions, load=f"planted:{name}")
    for name in ("Small", "Detached", "Weighted", "Mapped", "Unregistered")
)


class InTurn(Axis):
    def full_count(self, prompts):
        return 100

    def samples(self, asked):
        labels = [self.label(place, asked.count) for place in range(asked.count)]
        return [Sample(place, plain_item(label), labels[:place].count(label)) for place, label in enumerate(labels)]

    def label(self, place, count):
        return place % 3


class InBlocks(InTurn):
    def label(self, place, count):
        return place * 3 // count


IN_TURN = AxisSpec(name="in_turn", title="in turn", load="planted:InTurn")
IN_BLOCKS = AxisSpec(name="in_blocks", title="in blocks", load="planted:InBlocks")


class Plain(DigitsJudge):
    spec = replace(DIGITS, name="plain", load="planted:Plain")

    def __init__(self, device="cpu", options=None):
        super().__init__(device, options)
        self.digest = digest([self.spec.name, self.digest])


class Centred(Plain):
    spec = replace(DIGITS, name="centred", load="planted:Centred")

    def __call__(self, images, items=(), given=None):
        outputs = dict(super().__call__(images, items, given))
        outputs["features"] = outputs["features"] - outputs["features"].mean(axis=0)
        return outputs


class Deaf(Plain):
    spec = replace(DIGITS, name="deaf", load="planted:Deaf", options={"threshold": 0.5})

    def __init__(self, device="cpu", options=None):
        super().__init__(device, options)
        self.digest = "0" * 64


PLAIN, CENTRED, DEAF = Plain.spec, Centred.spec, Deaf.spec


class Share(AccuracyMetric):
    """Sound: the share of right answers again."""


class ByBatch(AccuracyMetric):
    """The mean over batches of the share in each."""

    def take(self, rows, samples):
        before = len(self._correct)
        super().take(rows, samples)
        self.shares = [*getattr(self, "shares", []), float(np.mean(self._correct[before:]))]

    def compute(self):
        return replace(super().compute(), value=float(np.mean(self.shares)), per_sample=None)


UNKNOWN = DatasetRow(title="a data set that no test can write", load="planted:Sound")
SHARE = replace(METRICS.own["accuracy_digits"], key="share_digits", load="planted:Share")
BY_BATCH = replace(METRICS.own["accuracy_digits"], key="by_batch_digits", load="planted:ByBatch")
'''
ENTRIES = {
    "nanogen.objectives": {"sound": "SOUND", "flipped": "FLIPPED", "restless": "RESTLESS"},
    "nanogen.losses": {
        "slight": "SMALL",
        "detached": "DETACHED",
        "weighted": "WEIGHTED",
        "mapped": "MAPPED",
        "unregistered": "UNREGISTERED",
    },
    "nanogen.datasets": {"unknown": "UNKNOWN"},
    "diffusionbench.axes": {"in_turn": "IN_TURN", "in_blocks": "IN_BLOCKS"},
    "diffusionbench.judges": {"plain": "PLAIN", "centred": "CENTRED", "deaf": "DEAF"},
    "diffusionbench.metrics": {"share_digits": "SHARE", "by_batch_digits": "BY_BATCH"},
}
# The faulty ones, and a test that must fail for each.
FAULTS = {
    "flipped": "test_the_velocity_leads_from_data_to_noise",
    "restless": "test_random_numbers_come_from_the_noise",
    "unregistered": "test_what_it_trains_is_registered_and_gets_a_gradient",
    "detached": "test_terms_reach_what_they_are_read_from_and_keep_to_their_image",
    "weighted": "test_the_weight_is_left_to_the_caller",
    "unknown": "test_openers_take_path_size_and_split",
    "in_blocks": "test_a_shorter_request_is_the_start_of_a_longer_one",
    "centred": "test_evidence_depends_on_the_image_and_its_item_alone",
    "deaf": "test_the_digest_is_that_of_weights_and_options",
    "by_batch_digits": "test_batch_size_plays_no_part",
}
SOUND = {name for names in ENTRIES.values() for name in names} - FAULTS.keys()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, dict[str, set[str]]]:
    """Entry -> outcome -> names of tests, of one run of the contracts with the package on the path."""
    folder = tmp_path_factory.mktemp("planted")
    (folder / "planted.py").write_text(PACKAGE)
    about = folder / "planted-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
    groups = (
        f"[{group}]\n" + "".join(f"{name} = planted:{value}\n" for name, value in names.items())
        for group, names in ENTRIES.items()
    )
    (about / "entry_points.txt").write_text("\n".join(groups))
    paths = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    root = Path(__file__).parents[2]
    words = " or ".join([*FAULTS, *SOUND])
    files = [
        f"tests/contracts/test_{name}.py" for name in ("objectives", "losses", "axes", "judges", "metrics", "datasets")
    ]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=no", "-rA", "-k", words, *files]
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=280)
    found: dict[str, dict[str, set[str]]] = {name: {} for name in (*FAULTS, *SOUND)}
    for outcome, test, entry in re.findall(
        r"^(PASSED|FAILED|ERROR|SKIPPED) \S+::(\w+)\[(.+?)\]", done.stdout, re.MULTILINE
    ):
        for name in re.split(r"[-]", entry):
            if name in found:
                found[name].setdefault(outcome, set()).add(test)
    assert any(found.values()), done.stdout + done.stderr
    return found


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_entry_fails(outcomes, name):
    assert FAULTS[name] in outcomes[name].get("FAILED", set()) | outcomes[name].get("ERROR", set())


@pytest.mark.parametrize("name", sorted(SOUND))
def test_a_sound_entry_passes(outcomes, name):
    assert set(outcomes[name]) == {"PASSED"}, outcomes[name]
