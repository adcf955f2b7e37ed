"""Small image sets on disk."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusionbench import cli
from diffusionbench.request import EvalRequest, Evaluation


def write_images(folder: Path, images: np.ndarray, labels=None) -> Path:
    """PNG files named in the order of the array, in one subfolder per label if there are labels."""
    for index, image in enumerate(images):
        place = folder if labels is None else folder / str(labels[index])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{index:05d}.png")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache folder of its own: no test profits from the self-tests and features of another."""
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def noise():
    """A function: n different images of a size, uint8 [n, size, size, 3]."""

    def make(count: int, size: int = 8, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)

    return make


@pytest.fixture
def write():
    """The function that writes images as files."""
    return write_images


@pytest.fixture
def ask():
    """A function: an evaluation with sensible defaults."""

    def make(**changes) -> Evaluation:
        given = {"metrics": ("accuracy_digits",), "reference": "digits", "count": 20, "method": "toy", "title": "Toy"}
        return Evaluation(EvalRequest(**given | changes))

    return make


@pytest.fixture
def bench(capsys, monkeypatch, tmp_path):
    """A function: run a command in the test's folder, give (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["diffusionbench", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


@pytest.fixture(scope="session")
def photographs(shared) -> dict[str, np.ndarray]:
    """A photograph uint8 [256, 256, 3] of each class of ImageNet, by its name in the archive without suffix."""
    with tarfile.open(shared("images", "imagenet_sample_256", "imagenet_sample_256.tar")) as tar:
        files = {one.name[:-4]: tar.extractfile(one).read() for one in tar if one.name.endswith(".jpg")}
    return {name: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for name, data in files.items()}


@pytest.fixture(scope="session")
def zebra(photographs) -> np.ndarray:
    return photographs[next(name for name in photographs if name.startswith("0340"))]


@pytest.fixture(scope="session")
def held_out(tmp_path_factory) -> Path:
    """The held-out digits as a folder of class subfolders."""
    from diffusionbench.references import digits

    images, labels = digits.read("held_out")
    return write_images(tmp_path_factory.mktemp("digits") / "held_out", images, labels)
