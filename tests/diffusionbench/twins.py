"""Judges of equal width, which nothing but their names and digests tells apart."""

from dataclasses import replace

import numpy as np

from diffusionbench.judges import DIGITS, JUDGES
from diffusionbench.judges.digits import DigitsJudge
from diffusionbench.metrics import METRICS, of_judge

TWIN = replace(DIGITS, name="twin", title="the twin", self_test=False)


class Twin(DigitsJudge):
    """The judge of digits looking at the negative: features of the same width, other numbers."""

    spec = TWIN

    def __init__(self, device="cpu", options=None):
        super().__init__(device, options)
        self.digest = self.digest_of("twin")

    def __call__(self, images, items=(), given=None):
        return super().__call__(255 - images, items, given)


def add_twin(monkeypatch):
    """Put the twin and its metrics into the tables for one test."""
    monkeypatch.setitem(JUDGES._rows, "twin", TWIN)
    for row in of_judge(TWIN):
        monkeypatch.setitem(METRICS._rows, row.key, row)
    load = JUDGES.load
    monkeypatch.setattr(JUDGES, "load", lambda name: Twin if name == "twin" else load(name))


def real_features(judge, images):
    """Features float64 of images by a judge."""
    return judge(images)["features"].astype(np.float64)
