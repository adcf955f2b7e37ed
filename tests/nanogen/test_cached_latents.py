"""Latents that are made once and kept: the same run, without images in the step."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import MODEL, QUIET, losses
from watch import register

from diffusionbench.errors import ConfigError
from nanogen.build import build_components
from nanogen.checkpoint import newest, read_weights
from nanogen.config import compose, reload
from nanogen.data.memory import CachedLatents, cache_latents
from nanogen.data.opening import open_dataset
from nanogen.data.order import batches, in_order
from nanogen.train import open_data, train, training_source

IMAGES = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of ten coloured images each."""
    root = tmp_path_factory.mktemp("pictures")
    draws = np.random.default_rng(0)
    for place in range(IMAGES):
        path = root / f"class{place % 2}" / f"{place:02}.png"
        path.parent.mkdir(exist_ok=True)
        coarse = draws.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse.repeat(8, axis=0).repeat(8, axis=1)).save(path)
    return root


def composition(folder, *more):
    words = [*MODEL, *QUIET, "train.batch_size=4", "train.duration=10 steps", "optim.warmup=0 steps", "data.workers=0"]
    return compose("imagefolder", "toy-ae", "laptop", overrides=[*words, f"data.path={folder}", *more])


def source_of(folder, *more):
    data, config = open_data(composition(folder, *more).config)
    return data, training_source(data, config, build_components(config, "cpu", "float32"))


def test_the_losses_are_those_of_encoding_in_every_step(folder, tmp_path, capsys):
    for name, memory in (("kept", 1), ("encoded", 0)):
        train(composition(folder, f"latent.cache_mb={memory}"), tmp_path / name, "cpu", [])
        said = capsys.readouterr().err
        assert ("making the latents of 20 images once" in said) == (name == "kept")
    kept, encoded = losses(tmp_path / "kept"), losses(tmp_path / "encoded")
    assert len(kept) == 10
    np.testing.assert_allclose(kept, encoded, rtol=1e-5)


def test_no_image_is_encoded_within_the_steps(folder):
    # One step more than a pass over the 20 images.
    _, kept = source_of(folder, "train.duration=6 steps")
    assert isinstance(kept, CachedLatents)
    assert kept.latents.shape == (IMAGES, 16, 4, 4)
    batch = next(batches(kept, seed=0, batch_size=4))
    assert batch.image is None
    assert batch.latent.shape == (4, 16, 4, 4)


def test_a_run_that_continues_ends_with_the_same_weights(folder, tmp_path):
    def weights(run):
        return read_weights(newest(run / "checkpoints")[0].weights)[0]

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    words = ("train.checkpoint_every=5 steps",)
    train(composition(folder, *words), whole, "cpu", [])
    train(composition(folder, *words), stopped, "cpu", [])
    shutil.rmtree(newest(stopped / "checkpoints")[0].path)
    assert newest(stopped / "checkpoints")[0].step == 5
    train(composition(folder, *words), stopped, "cpu", [])
    expected = weights(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(stopped).items())


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(["latent.cache_mb=0"], id="off"),
        pytest.param(["train.duration=5 steps"], id="no image comes twice"),
        pytest.param(["data.corrupt=skip"], id="samples may be replaced"),
    ],
)
def test_images_are_read_where_keeping_is_off_or_saves_nothing(folder, more):
    data, source = source_of(folder, *more)
    assert source is data


def test_images_are_read_where_an_extra_loss_may_look_at_them(folder, monkeypatch):
    register(monkeypatch)
    data, source = source_of(folder, "losses={encoded: {weight: 1}}")
    assert source is data


def test_latents_that_do_not_fit_are_not_kept():
    data, config = open_data(compose("digits", "pixel-v", overrides=["latent.cache_mb=1"]).config)
    assert 4 * len(data) * 3 * 8 * 8 > 2**20
    assert training_source(data, config, build_components(config, "cpu", "float32")) is data


def test_order_labels_and_captions_of_a_mixture_stay(folder, tmp_path):
    again = shutil.copytree(folder, tmp_path / "again")
    data = open_dataset("imagefolder", [str(folder), str(again)], image_size=32, weights=[3, 1], template="a {class}")
    kept = cache_latents(data, in_order(data, 8), lambda batch: batch.image.float())
    theirs, ours = (batches(source, seed=3, batch_size=4) for source in (data, kept))
    for _ in range(12):
        expected, found = next(theirs), next(ours)
        assert found.caption == expected.caption
        assert found.positions == expected.positions
        torch.testing.assert_close(found.latent, expected.image.float(), rtol=0, atol=0)
        torch.testing.assert_close(found.label, expected.label, rtol=0, atol=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_in_order_gives_every_item_once(folder, workers):
    data = open_dataset("imagefolder", str(folder), image_size=32)
    read = list(in_order(data, 8, workers))
    assert [len(batch.image) for batch in read] == [8, 8, 4]
    images = torch.cat([batch.image for batch in read]).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(images, np.stack([data[index].image for index in range(IMAGES)]))
    assert torch.cat([batch.label for batch in read]).tolist() == [data[index].label for index in range(IMAGES)]


def test_a_config_of_before_is_read_under_the_name_of_today(folder):
    config = composition(folder, "latent.cache_mb=7").config
    stored = config.model_dump(mode="json")
    stored["latent"] = {"name": stored["latent"]["name"], "memory": 7}
    assert reload(stored, "run") == config
    with pytest.raises(ConfigError, match=r"latent\.memory"):
        composition(folder, "latent.memory=7")
