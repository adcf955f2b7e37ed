"""The nearest training image: copies have a ratio near 0, the scale is that of held-out images."""

import json

import numpy as np
import pytest
from test_viewer import cards_of

from diffusionbench import nearest
from diffusionbench.errors import RequestError
from diffusionbench.nearest import find_nearest


class Means:
    """Stands in for the judge: the mean colour of an image."""

    digest = "4" * 64

    def __call__(self, images, items=(), given=None):
        return {"features": images.mean((1, 2)).astype(np.float32)}


@pytest.fixture(autouse=True)
def judged_by_colour(monkeypatch):
    monkeypatch.setattr(
        nearest, "JUDGES", type("Judges", (), {"load": staticmethod(lambda name: lambda device: Means())})
    )
    monkeypatch.setattr(nearest, "self_test", lambda judge, device: None)
    monkeypatch.setattr(nearest, "_ROWS", 3)
    monkeypatch.setattr(nearest, "_COLUMNS", 2)


def greys(*levels):
    return np.stack([np.full((4, 4, 3), level, np.uint8) for level in levels])


@pytest.fixture
def sets(tmp_path, write):
    return {
        "made": write(tmp_path / "made", greys(100, 11, 52, 250)),
        "train": write(tmp_path / "train", greys(10, 30, 50, 100, 200)),
        "held": write(tmp_path / "held", greys(14, 54, 104)),
    }


def test_each_image_has_its_nearest_and_the_scale_is_the_held_out_images(sets):
    found = find_nearest(sets["made"], sets["train"], sets["held"])
    assert found.places.tolist() == [3, 0, 2, 4]
    # Held-out images are 4 levels from theirs, each.
    assert found.ratios == pytest.approx([0, 1 / 4, 2 / 4, 50 / 4], abs=1e-6)
    assert found.near == pytest.approx(1)
    assert found.order == [0, 1, 2, 3]
    assert "3 images (75.0%) lie nearer" in found.notes[1]


def test_without_held_out_images_training_images_set_the_scale_each_against_the_others(sets):
    found = find_nearest(sets["made"], sets["train"])
    # Their distances: 20, 20, 20, 50, 100.
    assert found.ratios == pytest.approx([0, 1 / 20, 2 / 20, 50 / 20], abs=1e-6)


def test_held_out_images_that_were_trained_on_give_no_scale(sets):
    with pytest.raises(RequestError, match="do not give a scale"):
        find_nearest(sets["made"], sets["train"], sets["train"])


def test_the_verb_writes_a_page_with_the_lowest_ratio_first(sets, tmp_path, bench):
    page = tmp_path / "nearest.html"
    words = ("nearest", sets["made"], "--train", sets["train"], "--held-out", sets["held"])
    code, out, _ = bench(*words, "--page", page, "--json")
    assert code == 0
    assert [row[:2] for row in json.loads(out)["nearest"]] == [["0", "3"], ["1", "0"], ["2", "2"], ["3", "4"]]
    cards = cards_of(page.read_text())
    assert [card["verdict"] for card in cards] == ["near a training image"] * 3 + ["as far as held-out images"]
    assert [image["name"] for image in cards[1]["images"]] == ["1", "0"]
    code, _, err = bench(*words, "--page", tmp_path / "nearest.txt")
    assert (code, "Choose a name that ends in .html" in err) == (2, True)
