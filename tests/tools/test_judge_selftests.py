"""The tool that writes the self-tests of judges."""

import json

import numpy as np
import pytest

import judge_selftests as tool
from diffusionbench.errors import UserError
from diffusionbench.judges import JUDGES


@pytest.mark.parametrize("name", tool.KEPT)
def test_the_shipped_outputs_are_what_it_writes(name, tmp_path, request):
    if name == "coco_ssd":
        request.getfixturevalue("coco_ssd_installed")
    try:
        JUDGES.load(name).check()
    except UserError as error:
        pytest.skip(str(error))
    tool.main(name, tmp_path / "outputs.json")
    made, shipped = (json.loads(path.read_text()) for path in (tmp_path / "outputs.json", JUDGES.load(name).shipped))
    assert (made["weights"], made["every"]) == (shipped["weights"], shipped["every"])
    for one, other in zip(made["outputs"], shipped["outputs"], strict=True):
        for key in made["every"]:
            np.testing.assert_allclose(one[key], other[key], atol=1e-3)
