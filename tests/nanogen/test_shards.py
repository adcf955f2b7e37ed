"""Preparation by shards: images and text states, the same bytes any way, on where it was killed, and its costs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders import save_encoder
from tiny import MODEL, QUIET, losses

from diffusionbench.errors import ConfigError, DataError, MissingPackageError
from nanogen import prepare, shards
from nanogen.build import build_components
from nanogen.config import compose
from nanogen.data import cached
from nanogen.data.cached import StoredPictures
from nanogen.prepare import DryRun, prepare_images, prepare_latents, prepare_text
from nanogen.shards import Spread
from nanogen.text import cache as text_cache
from nanogen.train import open_data, train, training_source

COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """Fifteen pictures with captions, twelve of them distinct, and an encoder."""
    from PIL import Image

    root = tmp_path_factory.mktemp("captioned")
    for place in range(15):
        words = f"a {COLOURS[place % 3]} square " + " ".join(["of"] * (place % 12 // 3))
        Image.new("RGB", (32, 32), (place * 9, 0, 0)).save(root / f"{place:02}.png")
        (root / f"{place:02}.txt").write_text(words.strip())
    return root, save_encoder(tmp_path_factory.mktemp("encoder"), "bert")


def text_config(captioned, *more):
    root, encoder = captioned
    words = [f"data.path={root}", f"condition.encoder={encoder}", "data.image_size=32", "eval.metrics=[]", *more]
    return compose("captions", "pixel-v", "laptop", overrides=words).config


def digits(*more):
    words = [*MODEL, *QUIET, "train.batch_size=8", "train.duration=3 steps", "optim.warmup=0 steps", *more]
    return compose("digits", overrides=words)


def same_files(one: Path, other: Path) -> None:
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_text_in_parts_and_by_workers_is_that_of_one_process(captioned, tmp_path, monkeypatch):
    monkeypatch.setattr(text_cache, "CHUNK", 4)
    config = text_config(captioned)
    whole = prepare_text(config, tmp_path / "whole", "float32")
    assert (whole.captions, whole.truncated) == (12, 0)
    assert prepare_text(config, tmp_path / "parts", "float32", Spread((2, 2))) is None
    assert len(list((tmp_path / "parts.parts").glob("states-*.bin"))) == 1
    assert not (tmp_path / "parts").exists()
    prepare_text(config, tmp_path / "parts", "float32", Spread((1, 2)))
    prepare_text(config, tmp_path / "parts", "float32")
    same_files(tmp_path / "whole", tmp_path / "parts")
    prepare_text(config, tmp_path / "workers", "float32", Spread(workers=2))
    same_files(tmp_path / "whole", tmp_path / "workers")
    assert not list(tmp_path.glob("*.parts"))


def test_a_text_shard_that_is_there_is_not_encoded_again(captioned, tmp_path, monkeypatch):
    monkeypatch.setattr(text_cache, "CHUNK", 4)
    config, made = text_config(captioned), []
    real = prepare.TextShards.content

    def content(self, recipe, items):
        made.append(items.start // recipe.shard)
        return real(self, recipe, items)

    monkeypatch.setattr(prepare.TextShards, "content", content)
    prepare_text(config, tmp_path / "text", "float32", Spread((2, 2)))
    victim = next((tmp_path / "text.parts").glob("states-000001-*.bin"))
    prepare_text(config, tmp_path / "text", "float32", Spread((1, 2)))
    assert made == [1, 0, 2]
    victim.write_bytes(b"x" + victim.read_bytes()[1:])
    prepare_text(config, tmp_path / "text", "float32")
    assert made == [1, 0, 2, 1]
    prepare_text(config, tmp_path / "other", "float32", Spread((1, 2)))
    with pytest.raises(
        DataError, match=r"another recipe: dtype is float32 there.*\. Remove that folder, or give another --out\."
    ):
        prepare_text(config, tmp_path / "other", "float16", Spread((2, 2)))


def test_the_states_of_shards_are_the_encoders(captioned, tmp_path, monkeypatch):
    monkeypatch.setattr(text_cache, "CHUNK", 4)
    config = text_config(captioned)
    prepare_text(config, tmp_path / "text", "float32")
    encoder = prepare.TextShards(config, "cpu").encoder
    captions = ["a red square of of", "a blue square"]
    found = text_cache.TextCache(tmp_path / "text", encoder).read(captions)
    for caption, states in zip(captions, encoder(captions), strict=True):
        torch.testing.assert_close(found[caption], states, atol=1e-5, rtol=1e-5)


@pytest.fixture
def small_shards(monkeypatch):
    """A hundred digits of 8 px each."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 100 * 3 * 64)
    monkeypatch.setattr(shards, "SHARD_ITEMS", 100)


@pytest.mark.parametrize("count, made", [(1, 16), (20, 16), (1438, 23), (64 * 1024, 1024), (1_281_167, 1024)])
def test_a_small_set_is_shared_out_too(count, made):
    assert shards.items_of_a_shard(2**16, count) == made


def test_an_item_larger_than_a_shard_makes_one():
    assert shards.items_of_a_shard(2**27, 1000) == 1


@pytest.mark.usefixtures("small_shards")
def test_a_run_on_stored_pictures_is_the_same_run(tmp_path):
    made = prepare_images(digits().config, tmp_path / "images")
    assert (made.count, made.num_shards) == (1438, 15)
    with_cache = digits(f"data.cache={tmp_path / 'images'}")
    data, config = open_data(with_cache.config)
    source = training_source(data, config, build_components(config, "cpu", "float32"))
    assert isinstance(source, StoredPictures)
    batch = source.batch(np.array([1437, 0, 500]), [0, 1, 2])
    for place, index in enumerate((1437, 0, 500)):
        assert torch.equal(batch.image[place], torch.from_numpy(data[index].image).permute(2, 0, 1))
    assert batch.label.tolist() == [data.label(index) for index in (1437, 0, 500)]
    train(with_cache, tmp_path / "cached", "cpu", [])
    train(digits(), tmp_path / "decoded", "cpu", [])
    assert losses(tmp_path / "cached") == losses(tmp_path / "decoded")


@pytest.mark.usefixtures("small_shards")
def test_pictures_in_parts_and_by_workers_are_those_of_one_process(tmp_path):
    prepare_images(digits().config, tmp_path / "whole")
    for part in (3, 1, 2):
        prepare_images(digits().config, tmp_path / "parts", Spread((part, 3)))
    prepare_images(digits().config, tmp_path / "workers", Spread(workers=2))
    same_files(tmp_path / "whole", tmp_path / "parts")
    same_files(tmp_path / "whole", tmp_path / "workers")


@pytest.mark.usefixtures("small_shards")
def test_shards_that_are_missing_damaged_or_of_something_else_are_refused(tmp_path):
    prepare_images(digits().config, tmp_path / "images", Spread((1, 2)))
    data, _ = open_data(digits().config)
    asked = cached.ImageCacheManifest.of(data, 8)
    with pytest.raises(DataError, match=r"image cache .* is unfinished: 7 of 15 shards are missing"):
        StoredPictures(tmp_path / "images", data, asked)
    prepare_images(digits().config, tmp_path / "images")
    victim = sorted((tmp_path / "images").glob("*.bin"))[2]
    victim.write_bytes(b"x" + victim.read_bytes()[1:])
    with pytest.raises(DataError, match=r"damaged\. The same `nanogen prepare images` command makes it again"):
        StoredPictures(tmp_path / "images", data, asked).batch(np.array([250]), [0])
    with pytest.raises(DataError, match="image_size is 8 there and 16 now"):
        StoredPictures(tmp_path / "images", data, cached.ImageCacheManifest.of(data, 16))
    with pytest.raises(DataError, match="is no image cache"):
        StoredPictures(tmp_path / "nothing", data, asked)
    with pytest.raises(ConfigError, match=r"data\.corrupt=skip replaces some"):
        prepare_images(digits("data.corrupt=skip").config, tmp_path / "skip")


def test_a_dry_run_says_size_time_and_passes_and_writes_nothing(captioned, tmp_path):
    found = prepare_text(
        text_config(captioned, "train.duration=10 epochs", "train.batch_size=5"),
        tmp_path / "t",
        "float16",
        dry_run=True,
    )
    assert isinstance(found, DryRun)
    assert found.items == found.sample == 12
    # Twelve captions of three to six words, with two tokens around them, of 24 numbers each; then 13 whole numbers.
    assert found.num_bytes == 2 * 24 * sum(3 + extra + 2 for extra in range(4) for _ in range(3)) + 13 * 8
    assert found.passes == 10
    assert found.reading > 0
    images = prepare_images(digits().config, tmp_path / "i", dry_run=True)
    assert images.num_bytes == 1438 * 3 * 64 + 63 * 32
    assert "costs less" in images.lines()[2]
    latents = prepare_latents(
        compose("digits", "toy-ae", "laptop", overrides=[*MODEL, "train.duration=2 epochs"]).config,
        tmp_path / "l",
        "float32",
        dry_run=True,
    )
    assert (latents.sample, latents.num_shards) == (64, 63)
    assert latents.num_bytes == 1438 * 4 * 256 + 63 * 32
    assert latents.break_even > 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "reading, passes, said",
    [
        (1.0, 3.0, "it pays after 1.33 passes over the data; the training makes 3 passes"),
        (1.0, 1.2, "it pays after 1.33 passes over the data; the training makes 1.2 passes: making each when it is"),
        (3.0, None, "it pays after 4 passes over the data; the training makes an unknown number of passes"),
        (0.001, 1.0, "it pays after 1 pass over the data; the training makes 1 pass: making each when it is needed"),
        (4.0, 9.0, "it never pays, as reading takes as long as making; the training makes 9 passes: making each when"),
    ],
)
def test_a_cache_pays_when_making_it_once_and_reading_it_takes_less_than_making_it_in_each_pass(reading, passes, said):
    """After n passes one has cost s + n r, the other n s."""
    found = DryRun(1000, 2e9, 3, 10, 4.0, reading, passes)
    assert found.lines()[2].startswith(said)
    assert ("costs less" in found.lines()[2]) == (passes is not None and 4 + passes * reading >= passes * 4)
    assert f"reading them back took {reading:.3g} s" in found.lines()[1]


def test_ray_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"needs the package 'ray'.* pip install .*\[cluster\]"):
        Spread(engine="ray")


@pytest.mark.cluster
@pytest.mark.usefixtures("small_shards")
def test_actors_of_ray_make_the_bytes_of_one_process(tmp_path):
    pytest.importorskip("ray", reason="needs the extra cluster")
    prepare_images(digits().config, tmp_path / "whole")
    prepare_images(digits().config, tmp_path / "actors", Spread(workers=2, engine="ray"))
    same_files(tmp_path / "whole", tmp_path / "actors")


@pytest.mark.parametrize("workers, loaders", [(2, 2), (4, 1), (8, 0), (16, 0)])
def test_loaders_take_only_cores_that_no_worker_has(workers, loaders, monkeypatch):
    monkeypatch.setattr(shards, "usable_cores", lambda: 8)
    monkeypatch.setattr(shards.torch, "set_num_threads", lambda number: None)
    seen = []
    config = digits("data.workers=2").config
    shards._open_here(lambda config, device: seen.append(config.data.workers), config, Path(), None, workers)
    assert seen == [loaders]
