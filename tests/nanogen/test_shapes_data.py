"""The procedural captioned world as training data."""

import numpy as np
import pytest

from diffusionbench.benchmarks.simpleeval import shapes_world
from diffusionbench.errors import DataError
from diffusionbench.prompts import PROMPTS
from nanogen.data.opening import open_dataset
from nanogen.datasets import shapes
from nanogen.datasets.shapes import open_shapes


def test_a_caption_has_several_pictures_and_each_is_a_function_of_its_index():
    data = open_shapes(None, 32, "train")
    first, second = data[5], data[5 + shapes.CAPTIONS]
    assert first.caption == second.caption == data.caption(5)
    assert not np.array_equal(first.image, second.image)
    np.testing.assert_array_equal(data[5].image, first.image)
    assert data.caption(5) != data.caption(6)


def test_sizes_show_the_same_scene():
    large, small = open_shapes(None, 64, "train")[3].image, open_shapes(None, 32, "train")[3].image
    means = large.reshape(32, 2, 32, 2, 3).astype(float).mean((1, 3))
    assert np.abs(means - small).max() <= 1


def test_held_out_compositions_are_never_drawn():
    scenes = [dict(shapes._scene(place)[1]) for place in range(2000)]
    assert not any(shapes_world.touches_held_out(scene) for scene in scenes)
    # Without the rule about one scene in ten would hold one.
    pairs = {(scene[f"colour{g}"], scene[f"shape{g}"]) for scene in scenes for g in (1, 2) if f"colour{g}" in scene}
    assert len(pairs) == len(shapes_world.COLOURS) * len(shapes_world.SHAPES) - len(shapes_world.HELD_OUT)


def test_training_scenes_come_from_a_seed_that_no_prompt_set_has():
    assert shapes.SEED not in [f"public-{place}" for place in range(5)]
    with pytest.raises(Exception, match="is no seed of SimpleEval"):
        PROMPTS.load("simpleeval_shapes_v1").open(shapes.SEED, None)


@pytest.mark.parametrize(
    "path, size, split, message",
    [("x", 32, "train", "reads no path"), (None, 48, "train", "drawn at 24, 32"), (None, 32, "val", "no split 'val'")],
)
def test_what_the_world_does_not_have_is_refused(path, size, split, message):
    with pytest.raises(DataError, match=message):
        open_dataset("shapes", path, image_size=size, split=split)
