"""`nanogen init`: pictures of every kind end in a config that loads, says what it costs, and trains."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from diffusionbench.errors import DataError, RequestError
from nanogen import init
from nanogen.cli import app
from nanogen.config import compose
from nanogen.plan import plan


def pictures(folder: Path, names: list[str], sides: tuple[int, int]) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        side = sides[number % 2]
        Image.fromarray(np.full((side, side + 9, 3), 7 * number % 256, np.uint8)).save(path)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> str:
    done = CliRunner().invoke(app, ["init", *words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_classes_become_a_config_with_its_costs_and_commands(here):
    pictures(here / "animals", [f"{name}/{n}.png" for name in ("cat", "dog") for n in range(20)], (24, 60))
    said = run("animals")
    assert "40 images with 2 classes (cat, dog); shorter sides 24 to 60 px, half of them below 60 px" in said
    for command in ("train animals.yaml --run outputs/animals", "report outputs/animals"):
        assert f"  nanogen {command}\n" in said
    composed = compose(None, None, None, here / "animals.yaml", [])
    config = composed.config
    assert (composed.choice["task"], composed.choice["scale"]) == ("imagefolder", "laptop")
    assert (config.data.path, config.data.image_size, config.train.batch_size) == ("animals", 32, 8)
    assert config.condition.num_classes == 2
    text = (here / "animals.yaml").read_text()
    for line in plan(config, num_images=40).lines():
        # What is free on the disk changes meanwhile; the costs do not.
        assert f"#   {line}\n" in text
    for line in text.partition("use:")[2].splitlines()[1:]:
        assert line.startswith("data.path") or re.search(r"\S  +# \S", line), line


def test_captions_become_a_text_to_image_config(here):
    folder = pictures(here / "drawn", [f"{n}.png" for n in range(9)], (40, 40))
    for n in range(9):
        (folder / f"{n}.txt").write_text(f"thing {n}")
    said = run("drawn", "--out", "mine.yaml")
    assert "9 images with captions; shorter sides 40 px" in said
    assert "nanogen sample outputs/mine --prompt 'thing 0' --num 64 --out mine.png" in said
    config = compose(None, None, None, here / "mine.yaml", []).config
    assert (config.condition.kind, config.data.name, config.train.batch_size) == ("text", "captionfolder", 2)


def test_small_pictures_are_not_enlarged_and_small_patches_stay_above_a_pixel(here):
    pictures(here / "tiny", [f"a/{n}.png" for n in range(8)], (9, 15))
    run("tiny")
    config = compose(None, None, None, here / "tiny.yaml", []).config
    assert (config.data.image_size, config.model.pixel_grid) == (8, 4)


def test_parquet_is_looked_into(here, shared):
    run(str(shared("images", "cifar10", "test.parquet")), "--out", "c.yaml", "--scale", "single-gpu")
    config = compose(None, None, None, here / "c.yaml", []).config
    assert (config.data.name, config.condition.num_classes, config.train.batch_size) == ("parquet", 10, 256)


def test_without_its_judge_a_config_scores_nothing_and_says_how_to(here, monkeypatch):
    pictures(here / "animals", [f"a/{n}.png" for n in range(8)], (24, 60))
    lacking = {"state": "lacking", "needs": [], "get": ["pip install it"]}
    monkeypatch.setattr(init, "metric_state", lambda key: lacking)
    run("animals")
    assert compose(None, None, None, here / "animals.yaml", []).config.eval.metrics == ()
    assert "recall_efflite0 need: pip install it\n" in (here / "animals.yaml").read_text()


def test_an_own_config_is_replaced_and_nothing_else(here):
    pictures(here / "animals", [f"a/{n}.png" for n in range(8)], (24, 60))
    run("animals")
    run("animals", "--scale", "single-gpu")
    assert "scale: single-gpu" in (here / "animals.yaml").read_text()
    (here / "mine.yaml").write_text("use: {task: digits}\n")
    with pytest.raises(RequestError, match="exists and is no earlier result of this kind"):
        run("animals", "--out", "mine.yaml")


@pytest.mark.parametrize(
    "count, damage, words",
    [(3, False, "holds 3 images for training. Give at least 8"), (9, True, "4.png cannot be read")],
)
def test_what_cannot_be_trained_on_is_refused_and_nothing_written(here, count, damage, words):
    folder = pictures(here / "few", [f"a/{n}.png" for n in range(count)], (24, 24))
    if damage:
        (folder / "a" / "4.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=words):
        run("few")
    assert [path.name for path in here.iterdir()] == ["few"]


def test_the_plan_is_said_before_the_first_step(here, capsys):
    from tiny import tiny

    from nanogen.train import train

    train(tiny(1), here / "run", "cpu", ["test"])
    said = capsys.readouterr().err.splitlines()
    first = next(number for number, line in enumerate(said) if line.startswith("step 1/1"))
    expected = plan(tiny(1, "condition.num_classes=10").config, num_images=1438).lines()
    assert expected[0] in said[:first]
    assert expected[1] in said[:first]
