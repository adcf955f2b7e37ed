"""The tool that writes the self-test of judge `efflite0`."""

import json

import numpy as np
import pytest

import efflite0_selftest as tool
from diffusionbench.errors import UserError
from diffusionbench.judges.efflite0 import SELF_TEST, EfficientNetLite0


def test_the_shipped_outputs_are_what_it_writes(tmp_path):
    try:
        EfficientNetLite0.check()
    except UserError as error:
        pytest.skip(str(error))
    tool.main(tmp_path / "outputs.json")
    made, shipped = (json.loads(path.read_text()) for path in (tmp_path / "outputs.json", SELF_TEST))
    assert (made["weights"], made["every"]) == (shipped["weights"], shipped["every"])
    for one, other in zip(made["outputs"], shipped["outputs"], strict=True):
        for name in made["every"]:
            np.testing.assert_allclose(one[name], other[name], atol=1e-3)
