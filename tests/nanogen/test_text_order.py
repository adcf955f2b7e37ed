"""Captions of like length go together, and orders of any size take no memory."""

from __future__ import annotations

import itertools
import json
import sys

import numpy as np
import pytest
from encoders import save_encoder
from PIL import Image
from tiny import MODEL, QUIET, pair, tiny

from nanogen.config import compose
from nanogen.data import Component, epochs
from nanogen.data import order as ordering
from nanogen.data.epochs import epoch_slice, permuted
from nanogen.data.memory import ArrayDataset
from nanogen.data.order import Order, batches, by_length
from nanogen.train import train


@pytest.fixture(scope="module")
def captions():
    drawn = np.random.default_rng(0)
    return ["a " + " ".join(["red"] * int(count)) for count in drawn.integers(1, 30, 64)]


@pytest.fixture
def data(captions):
    return ArrayDataset(images=np.zeros((64, 8, 8, 3), np.uint8), captions=captions, digest="x")


def padded(micros, captions) -> int:
    """Words that are computed."""
    counts = [[len(captions[index].split()) for index in micro.indices] for micro in micros]
    return sum(len(one) * max(one) for one in counts)


def test_micro_batches_hold_the_same_examples_at_their_positions(data, captions):
    order = Order(size=64, seed=0, batch_size=32, world=2, rank=1, accumulation=4)
    plain = order.micro_batches(3)
    sorted_ = by_length(data, plain)
    assert [len(micro.indices) for micro in sorted_] == [4, 4, 4, 4]

    def pairs(micros):
        return sorted(
            (position, int(index)) for one in micros for index, position in zip(one.indices, one.positions, strict=True)
        )

    assert pairs(sorted_) == pairs(plain)
    assert {one.step for one in sorted_} == {3}
    assert padded(sorted_, captions) < 0.9 * padded(plain, captions)
    # One micro-batch, and data without captions, stay as they are.
    single = Order(size=64, seed=0, batch_size=32).micro_batches(0)
    assert by_length(data, single) is single
    assert by_length(ArrayDataset(images=data.images, digest="x"), plain) is plain


def test_the_loop_reads_them_so(data, captions):
    loader = batches(data, seed=0, batch_size=16, accumulation=4)
    lengths = [[len(text) for text in next(loader).caption] for _ in range(4)]
    assert all(max(one) <= min(other) for one, other in itertools.pairwise(lengths))


def test_training_is_that_of_the_order_of_the_data(tmp_path, monkeypatch, captions):
    root = tmp_path / "data"
    root.mkdir()
    for place, text in enumerate(captions[:16]):
        Image.new("RGB", (8, 8), (place * 9, 0, 0)).save(root / f"{place:02}.png")
        (root / f"{place:02}.txt").write_text(text)
    encoder = save_encoder(tmp_path / "encoder", "bert")
    words = [*(one for one in MODEL if "class" not in one), *QUIET, f"data.path={root}", f"condition.encoder={encoder}"]
    words += [
        "data.image_size=8",
        "train.batch_size=8",
        "train.accumulation=4",
        "train.duration=3 steps",
        "data.workers=0",
    ]
    composed = compose("captions", "pixel-v", "laptop", overrides=[*words, "optim.warmup=0 steps"])

    def found(name: str) -> list[float]:
        train(composed, tmp_path / name, "cpu", [])
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)[key] for line in lines for key in ("loss", "grad_norm")]

    ordered = found("ordered")
    monkeypatch.setattr(ordering, "by_length", lambda dataset, micros: micros)
    np.testing.assert_allclose(ordered, found("padded"), rtol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1000, 4097])
def test_places_are_permuted_without_a_list(size):
    found = permuted(np.arange(size), size, seed=0, epoch=0)
    assert sorted(found.tolist()) == list(range(size))
    some = np.arange(0, size, 3)
    assert permuted(some, size, 0, 0).tolist() == found[some].tolist()


def test_orders_of_seeds_and_epochs_differ_and_look_random():
    size = 10_000
    orders = [permuted(np.arange(size), size, *key) for key in ((0, 0), (0, 1), (1, 0), (0, 0, 1))]
    for place, one in enumerate(orders):
        # A random permutation has about one fixed point, and correlates with the order by about 1 / sqrt(n).
        assert abs(np.corrcoef(one, np.arange(size))[0, 1]) < 0.05
        assert (one == np.arange(size)).sum() < 10
        assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.05
        for other in orders[:place]:
            assert (one == other).sum() < 10


def test_a_huge_set_takes_no_memory():
    size = 10**11
    places = np.arange(256) * (size // 256)
    found = epoch_slice(Component(size), 0, 0, places)
    assert len(set(found.tolist())) == 256
    assert found.min() >= 0
    assert found.max() < size


def test_larger_sets_than_are_listed_take_it(monkeypatch):
    monkeypatch.setattr(epochs, "LISTED", 10)
    found = epoch_slice(Component(50), 3, 2, np.arange(50))
    assert found.tolist() == permuted(np.arange(50), 50, 3, 2).tolist()


SAMPLE = """
import sys
from pathlib import Path
from nanogen.parallel import processes
from nanogen.sample import SampleRequest, sample_run
with processes():
    for out in ("images.npz", "grid.png", "folder"):
        sample_run(Path(sys.argv[1]), [], SampleRequest("0-9", num=7, batch_size=2), Path(sys.argv[2]) / out)
"""


def test_two_processes_write_the_images_of_one(tmp_path, monkeypatch):
    train(tiny(1), tmp_path / "run", "cpu", [])
    (tmp_path / "two").mkdir()
    for done in pair(SAMPLE, tmp_path / "run", tmp_path / "two"):
        assert done.returncode == 0, done.stderr
    (tmp_path / "one").mkdir()
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "run"), str(tmp_path / "one")])
    exec(SAMPLE, {})
    names = sorted(str(path.relative_to(tmp_path / "one")) for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(names) == 9
    for name in names:
        if name.endswith(".png"):
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    # An archive tells when it was written.
    first, second = (np.load(tmp_path / folder / "images.npz") for folder in ("one", "two"))
    assert first["arr_0"].shape == (7, 8, 8, 3)
    assert all((first[key] == second[key]).all() for key in ("arr_0", "arr_1"))
    assert not list(tmp_path.rglob(".diffusionbench*"))
