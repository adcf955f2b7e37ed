"""The procedural captioned world as training data."""

import numpy as np
import pytest

from diffusionbench.benchmarks.simpleeval import shapes_world
from diffusionbench.errors import DataError, RequestError
from diffusionbench.judges import JUDGES
from diffusionbench.prompts import PROMPTS
from diffusionbench.references import REFERENCES
from diffusionbench.references.half import HalfReference
from diffusionbench.study.columns import accepted, declared
from nanogen.config import compose
from nanogen.data.opening import open_dataset
from nanogen.datasets import shapes
from nanogen.datasets.shapes import open_objects, open_shapes
from nanogen.reference import training_reference
from nanogen.study.file import cells_of, read_study


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
    with pytest.raises(RequestError, match="is no seed of SimpleEval"):
        PROMPTS.load("simpleeval_shapes_v1").open(shapes.SEED, None)


@pytest.mark.parametrize(
    "path, size, split, message",
    [("x", 32, "train", "reads no path"), (None, 48, "train", "drawn at 24, 32"), (None, 32, "val", "no split 'val'")],
)
def test_what_the_world_does_not_have_is_refused(path, size, split, message):
    with pytest.raises(DataError, match=message):
        open_dataset("shapes", path, image_size=size, split=split)


# Single objects by class


def test_objects_are_pictures_of_the_shapes_with_their_colour_and_shape_as_class():
    whole, data = open_shapes(None, 32, "train"), open_objects(None, 32, "train")
    pictures = {whole[index].image.tobytes(): whole.caption(index) for index in data._indices[:40]}
    for index in range(40):
        example = data[index]
        colour, shape = data.classes[example.label].split()
        caption = pictures[example.image.tobytes()]
        assert example.caption is None
        assert f"{colour} {shape}" in caption
        assert sum(caption.count(word) for word in shapes_world.SHAPES) == 1
    # Both pictures of every caption, and every class that is not held out.
    assert len(data) == shapes.PICTURES * len({index % shapes.CAPTIONS for index in data._indices})
    assert {data.label(index) for index in range(len(data))} == set(range(43)) == set(range(data.num_classes))
    assert not {tuple(name.split()) for name in data.classes} & shapes_world.HELD_OUT


def test_the_readers_know_the_classes_and_say_when_they_see_none():
    data, judge = open_objects(None, 32, "train"), JUDGES.load("simpleeval_objects")("cpu")
    assert JUDGES["simpleeval_objects"].classes[:-1] == data.classes
    images = np.stack([data[index].image for index in range(12)])
    right = judge(images)["logits"].argmax(1) == [data.label(index) for index in range(12)]
    assert right.mean() > 0.9
    empty, several = np.full((32, 32, 3), 128, np.uint8), open_shapes(None, 32, "train")
    pairs = [index for index in range(200) if " and " in several.caption(index) or "three" in several.caption(index)]
    others = np.stack([empty, *(several[index].image for index in pairs[:5])])
    assert (judge(others)["logits"].argmax(1) == 43).all()


def test_the_task_is_the_one_that_its_board_insists_on():
    config = compose("objects").config
    assert config.condition.num_classes == open_objects(None, config.data.image_size, "train").num_classes
    assert training_reference(config).digest in accepted().references["objects"]
    assert JUDGES.load("simpleeval_objects")("cpu").digest in accepted().judges["simpleeval_objects"]
    columns = [c for c in declared()["measured-objects"].columns if c.key in config.eval.metrics]
    assert {count for column in columns for count in column.rules["count"]} == {config.eval.num_samples}
    assert {column.key for column in columns} == {*config.eval.metrics}


def test_the_study_of_three_tasks_changes_data_and_conditioning_apart():
    study = read_study("three-tasks")
    cells, problems = cells_of(study)
    assert (problems, len(cells)) == ([], len(study.tasks) * len(study.methods) * len(study.seeds))
    configs = {task: next(cell.composed.config for cell in cells if cell.task == task) for task in study.tasks}
    kinds = {task: config.condition.kind for task, config in configs.items()}
    assert kinds == {"digits": "class", "objects": "class", "shapes": "text"}
    # The tasks of classes are scored as the board of the study insists on.
    boards = [declared()[name] for name in ("study-laptop", "measured-objects")]
    columns = {column.key: column for board in boards for column in board.columns}
    for task, judge in (("digits", "digits"), ("objects", "efflite0")):
        (digest,) = columns[f"fd_{judge}"].rules[f"references.{judge}.digest"]
        whole = training_reference(configs[task]) if task == "objects" else REFERENCES.load(task)()
        assert HalfReference(whole, "odd").digest == digest
        assert columns[f"fd_{judge}"].rules["count"] == (configs[task].eval.num_samples,)
