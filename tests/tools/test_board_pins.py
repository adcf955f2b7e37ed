"""The tool that enters digests into the declared boards."""

import board_pins as tool
from diffusionbench.study.columns import BOARDS, accepted


def test_this_version_lacks_no_pin():
    assert not any(tool.missing().values())


def test_a_pin_is_added_behind_the_former_ones_and_comments_stay(tmp_path):
    path = tmp_path / "boards.yaml"
    path.write_text(BOARDS.read_text("utf-8"), "utf-8")
    former = accepted().judges["digits"]
    tool.write(path, {"judges": {"digits": "1" * 64, "inception": "2" * 64}, "references": {}})
    text = path.read_text("utf-8")
    assert f"digits: [{former[0]}, {'1' * 64}]" in text
    assert f"inception: [{'2' * 64}]" in text
    assert text.count("#") == BOARDS.read_text("utf-8").count("#")
