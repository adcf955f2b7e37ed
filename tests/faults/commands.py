"""The commands whose every file operation is struck. To add one: an entry in `COMMANDS`, and what it needs to be there.

A command must end the same whenever it is started again, and cost about a second or less.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from encoders import save_encoder
from operations import execute
from tiny import words

from diffusionbench.images import save_png


@dataclass(frozen=True)
class Command:
    """A command and where it starts.

    Attributes:
        words: program and arguments; paths are below its folder.
        prepare: fills the folder with what the command needs.
        quick: how many of its operations the default tests strike, in each way.
        needs: packages without which it is skipped.
        judges: whether it judges the images of `store` and no others, none of which may be judged twice.
        every: of how many the whole campaign strikes one; more than 1 where hundreds of files are written alike.
    """

    words: tuple[str, ...]
    prepare: Callable[[Path], object] = lambda folder: None
    quick: int = 4
    judges: bool = False
    every: int = 1
    needs: tuple[str, ...] = ()


TRAINED = words(
    4,
    "train.checkpoint_every=2 steps",
    "train.keep=1",
    "sample.every=2 steps",
    "eval.every=2 steps",
    "eval.metrics=[accuracy_digits]",
    "eval.num_samples=4",
    "eval.batch_size=4",
    "train.precision=float32",
)
TEXT = ("condition.encoder=encoder", "data.image_size=32", "eval.metrics=[]")
TRAIN = ("nanogen", "train", "--task", "digits", "--run-dir", "run", *TRAINED)
PREPARE = ("nanogen", "prepare", "text", "--task", "captions", "--data", "data", "--out", "text", *TEXT)
SCORE = ("diffusionbench", "run", "images.npz", "--reference", "real.npz", "--metrics", "kd_digits,fd_digits")
REFERENCE = ("diffusionbench", "prepare", "reference", "real.npz", "--judge", "digits", "--out", "stats.npz")
MAKE = ("diffusionbench", "run", "maker:images", "--classes", "10", "--num", "260", "--version", "1", *SCORE[3:])
SAMPLE = ("nanogen", "sample", "outputs/run", "--labels", "0-9", "--num", "3")
SITE = ("diffusionbench", "site", "--out", "public")


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def captioned(folder: Path) -> None:
    """Three pictures with captions, and a text encoder."""
    for place, caption in enumerate(("two red circles", "a blue square", "a red circle left of a square")):
        save_png(np.full((32, 32, 3), 40 * place, np.uint8), folder / "data" / f"{place}.png")
        (folder / "data" / f"{place}.txt").write_text(caption + "\n")
    save_encoder(folder / "encoder", "bert")


def cached(folder: Path) -> None:
    """The same, and a text cache of other captions."""
    captioned(folder)
    (folder / "data" / "0.txt").write_text("one green circle\n")
    _run(folder, PREPARE)
    (folder / "data" / "0.txt").write_text("two red circles\n")


def scored(folder: Path) -> None:
    """Images to score, three chunks of a store, and real ones."""
    np.savez(folder / "images.npz", arr_0=images(260), arr_1=np.arange(260) % 10)
    np.savez(folder / "real.npz", arr_0=images(200, 1), arr_1=np.arange(200) % 10)


def prepared(folder: Path) -> None:
    """Real images, statistics of others under the name of the result, and one part of two."""
    scored(folder)
    real = (folder / "real.npz").read_bytes()
    np.savez(folder / "real.npz", arr_0=images(150, 2))
    _run(folder, REFERENCE)
    (folder / "real.npz").write_bytes(real)
    _run(folder, (*REFERENCE, "--part", "1/2"))


def maker(folder: Path) -> None:
    """A function that makes images from seeds, half of them noise, and real ones."""
    (folder / "maker.py").write_text(
        "import numpy as np\n\n\n"
        "def images(labels, seeds):\n"
        "    made = [np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8) for seed in seeds]\n"
        "    return np.stack([0 * one if label < 5 else one for one, label in zip(made, labels)])\n"
    )
    scored(folder)


def sampled(folder: Path) -> None:
    """A store of more images than a block has that nobody has judged; the judge has passed its self-test."""
    scored(folder)
    _run(folder, ("diffusionbench", "run", "real.npz", "--metrics", "is_digits"))
    np.savez(folder / "images.npz", arr_0=images(1100), arr_1=np.arange(1100) % 10)
    _run(folder, ("diffusionbench", "sample", "images.npz", "--store", "store"))


def apart(folder: Path) -> None:
    """Two parts of more images than a block has, made and judged."""
    np.savez(folder / "images.npz", arr_0=images(1100), arr_1=np.arange(1100) % 10)
    for part in "12":
        words = ("--metrics", "accuracy_digits", "--store", f"part{part}", "--part", f"{part}/2")
        _run(folder, ("diffusionbench", "run", "images.npz", *words))


def built(folder: Path) -> None:
    """A site to be replaced, which showed a record that is gone."""
    scored(folder)
    _run(folder, (*SCORE, "--out", "records/one.json"))
    _run(folder, SITE)
    shutil.rmtree(folder / "records")
    (folder / "records").mkdir()


def trained(folder: Path) -> None:
    """A finished run."""
    _run(folder, TRAIN)


def _run(folder: Path, command: tuple[str, ...]) -> None:
    outcome = execute(command[0], command[1:], folder, folder.with_name("prepared.txt"))
    assert outcome.code == 0, outcome.said


COMMANDS = {
    "train": Command(TRAIN, quick=5),
    "make a run folder": Command(("nanogen", "train", "--task", "digits", "--run-dir", "run", *words(1))),
    "prepare text": Command(PREPARE, captioned, needs=("transformers",)),
    "prepare images": Command(("nanogen", "prepare", "images", "--task", "digits", "--out", "images")),
    "prepare text anew": Command(PREPARE, cached, needs=("transformers",)),
    "score with a store": Command((*SCORE, "--store", "store", "--out", "record.json"), scored, quick=5),
    "make images with a store": Command((*MAKE, "--store", "store", "--out", "record.json"), maker, quick=4),
    "prepare a reference": Command((*REFERENCE, "--features", "--role", "val"), scored),
    "prepare a reference anew": Command((*REFERENCE, "--features"), prepared),
    "judge a store": Command(("diffusionbench", "judge", "store", "--metrics", "kd_digits"), sampled, judges=True),
    "score a store": Command(
        ("diffusionbench", "score", "store", "--metrics", "accuracy_digits", "--out", "record.json"),
        sampled,
        judges=True,
    ),
    "merge parts": Command(("diffusionbench", "merge", "whole", "part1", "part2"), apart, every=3),
    "sample a folder": Command((*SAMPLE, "--out", "drawn"), trained, quick=2),
    "sample an archive": Command((*SAMPLE, "--out", "drawn.npz"), trained, quick=2),
    "evaluate a run": Command(("nanogen", "eval", "outputs/run", "--guidance", "2"), trained, quick=2),
    "build a site": Command(SITE, quick=3, every=9, needs=("jinja2",)),
    "build a site anew": Command(SITE, built, quick=3, every=9, needs=("jinja2",)),
}
