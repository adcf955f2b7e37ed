"""Recipes become records that a board can tell apart; the programs are replaced by one that notes its words."""

import shlex
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import measure_recipes
from diffusionbench.record import Guidance, Protocol, Provenance, Record, Value, load
from diffusionbench.study.points import method_key
from nanogen.config import compose


@pytest.mark.parametrize("name", measure_recipes.RECIPES)
def test_a_recipe_can_be_trained_and_its_own_scale_comes_first(name):
    recipe = measure_recipes.RECIPES[name]
    words = shlex.split(recipe.words)
    chosen = {
        words[place].removeprefix("--"): words[place + 1] for place in range(len(words)) if words[place][0] == "-"
    }
    config = compose(chosen["task"], chosen.get("method"), None, None, [word for word in words if "=" in word]).config
    assert recipe.guidance[0] == config.guidance.scale


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Words of every call; an evaluation leaves a record of its guidance."""
    monkeypatch.chdir(tmp_path)
    Path("outputs").mkdir()
    calls = []

    def run(*words):
        calls.append(words)
        if "eval" not in words:
            return
        scale = float(words[words.index("--guidance") + 1])
        Record(
            kind="measured",
            id=f"toy-ae-{scale:g}",
            method="toy-ae",
            title="toy-ae",
            protocol=Protocol(name="class_conditional", axis="class_conditional", guidance=Guidance(scale=scale)),
            values={"fd_digits": Value(value=2)},
            provenance=Provenance(source="digits-42, step 600"),
            extra={"request": {"seed": 0}, "facts": {"fd_digits": {"predictions": [1], "status": "fine"}}},
        ).save(Path(words[words.index("--out") + 1]))

    monkeypatch.setattr(measure_recipes, "run", run)
    return calls


def test_a_recipe_gives_a_record_for_each_guidance(programs):
    records = list(measure_recipes.measure("digits", 42))
    assert [method_key(record) for record in records] == ["toy-ae", "toy-ae", "toy-ae-guidance-2"]
    assert records[0].extra == {
        "request": {"seed": 0},
        "facts": {"fd_digits": {"status": "fine"}},
        "recipe": "digits",
        "seed": 42,
        "train": "nanogen train --task digits --method toy-ae seed=42 --run outputs/digits-42",
    }
    assert len(programs) == 4
    list(measure_recipes.measure("digits", 42))
    assert [words[1] for words in programs[4:]] == ["train"]


def test_another_seed_is_a_variant(programs):
    assert [record.variant for record in measure_recipes.measure("digits", 43)][:2] == ["seed-43", "seed-43"]


def test_pictures_through_the_latents_keep_their_place(tmp_path):
    images = np.zeros((2, 32, 32, 3), np.uint8)
    images[1] = 255
    there = measure_recipes.through_toy_ae(images)
    assert there.shape == images.shape
    assert there[0].mean() < 60 < 200 < there[1].mean()


def test_pictures_are_drawn_three_ways(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = {}

    def run(*words):
        folder = Path(words[2])
        seen[folder.name] = sorted(folder.rglob("*.png"))
        Record(
            kind="measured",
            id=folder.name,
            method=folder.name,
            title="t",
            protocol=Protocol(name="t2i", axis="t2i"),
            values={},
            provenance=Provenance(source=folder.name),
            extra={"request": {}},
        ).save(Path(words[words.index("--out") + 1]))

    original = measure_recipes.simulate
    monkeypatch.setattr(measure_recipes, "simulate", lambda *words: list(islice(original(*words), 8)))
    monkeypatch.setattr(measure_recipes, "run", run)
    records = list(measure_recipes.pictures())
    assert [record.title for record in records] == list(measure_recipes.PICTURES.values())
    assert {len(files) for files in seen.values()} == {8}
    drawn, shuffled = seen["pictures-rendered"], seen["pictures-shuffled"]
    assert drawn[0].read_bytes() == shuffled[4].read_bytes() != shuffled[0].read_bytes()
    assert load(Path("outputs/pictures-shuffled.json")).id == "pictures-shuffled"
