"""Latents on disk: the same training, exact continuation of their preparation, and caches that do not fit."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from standins import WRITERS
from tiny import MODEL, QUIET, losses

from diffusionbench.errors import ConfigError, DataError, RequestError, RunError
from nanogen import cli, prepare, shards
from nanogen.build import build_components
from nanogen.config import compose
from nanogen.data.order import in_order
from nanogen.latents import LATENTS, cache, open_latent
from nanogen.latents.cache import LatentCacheManifest, StoredLatents
from nanogen.latents.files import WeightFiles
from nanogen.latents.rae import RAE
from nanogen.latents.toy import ToyAE
from nanogen.prepare import prepare_latents, prepare_statistics
from nanogen.shards import Spread, read_manifest
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


@pytest.fixture
def small_shards(monkeypatch):
    """Six latents of 16x4x4 in float32, so that 20 make four shards."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 6 * 4 * 256)


def composition(folder, *more):
    words = [*MODEL, *QUIET, "train.batch_size=4", "train.duration=10 steps", "optim.warmup=0 steps", "data.workers=0"]
    return compose("imagefolder", "toy-ae", "laptop", overrides=[*words, f"data.path={folder}", *more])


def made(folder, out, dtype="float32", part=(1, 1), *more, **spread):
    prepare_latents(composition(folder, *more).config, out, dtype, Spread(part, **spread))
    return out


def source_of(folder, out, *more):
    data, config = open_data(composition(folder, f"latent.cache={out}", *more).config)
    return training_source(data, config, build_components(config, "cpu", "float32"))


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("float16", 2e-3), ("bfloat16", 2e-2)])
def test_the_losses_are_those_of_encoding_in_every_step(dtype, tolerance, folder, tmp_path):
    made(folder, tmp_path / "cache", dtype)
    train(composition(folder, f"latent.cache={tmp_path / 'cache'}"), tmp_path / "cached", "cpu", [])
    train(composition(folder, "latent.cache_mb=0"), tmp_path / "encoded", "cpu", [])
    cached, encoded = losses(tmp_path / "cached"), losses(tmp_path / "encoded")
    assert len(cached) == 10
    np.testing.assert_allclose(cached, encoded, rtol=tolerance)


@pytest.mark.usefixtures("small_shards")
def test_batches_hold_the_latents_labels_and_order_of_the_data(folder, tmp_path):
    source = source_of(folder, made(folder, tmp_path))
    assert isinstance(source, StoredLatents)
    assert len(list(tmp_path.glob("latents-*.bin"))) == read_manifest(tmp_path, LatentCacheManifest).num_shards == 4
    batch = source.batch(np.array([19, 0, 6]), [0, 1, 2])
    latent = open_latent("toy-ae", "cpu")
    for place, index in enumerate((19, 0, 6)):
        image = torch.tensor(source.data[index].image).permute(2, 0, 1)[None].float() / 255
        torch.testing.assert_close(batch.latent[place : place + 1], latent.encode(image), atol=1e-5, rtol=1e-5)
    assert batch.label.tolist() == [source.data[index].label for index in (19, 0, 6)]
    assert batch.image is None
    assert batch.latent.dtype == torch.float32


@pytest.mark.usefixtures("small_shards")
def test_parts_make_the_bytes_of_one_process(folder, tmp_path):
    whole = made(folder, tmp_path / "whole")
    for part in (2, 1):
        made(folder, tmp_path / "parts", "float32", (part, 2))
    made(folder, tmp_path / "workers", workers=2)
    same_files(whole, tmp_path / "parts")
    same_files(whole, tmp_path / "workers")


def same_files(one, other):
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


@pytest.mark.cluster
@pytest.mark.usefixtures("small_shards")
def test_actors_of_ray_make_the_bytes_of_one_process(folder, tmp_path):
    pytest.importorskip("ray", reason="needs the extra cluster")
    whole = made(folder, tmp_path / "whole")
    made(folder, tmp_path / "actors", workers=2, engine="ray")
    same_files(whole, tmp_path / "actors")


@pytest.mark.usefixtures("small_shards")
def test_a_worker_that_is_killed_costs_its_shard_alone(folder, tmp_path, monkeypatch):
    """As by the kernel where memory is short; the same command continues."""
    monkeypatch.setattr(shards, "_make_here", os._exit)
    with pytest.raises(RunError, match=r"a worker ended before its time\. The same command continues"):
        made(folder, tmp_path, workers=2)
    monkeypatch.undo()
    monkeypatch.setattr(shards, "SHARD_BYTES", 6 * 4 * 256)
    made(folder, tmp_path, workers=2)
    assert isinstance(source_of(folder, tmp_path), StoredLatents)


@pytest.mark.usefixtures("small_shards")
def test_a_preparation_continues_and_repairs(folder, tmp_path, monkeypatch):
    made(folder, tmp_path, "float32", (1, 2))
    with pytest.raises(DataError, match=r"is unfinished: 2 of 4 shards are missing, first latents-000001-"):
        source_of(folder, tmp_path)
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.bin")}
    made(folder, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    victim = sorted(tmp_path.glob("*.bin"))[1]
    before = victim.read_bytes()
    victim.write_bytes(b"x" + before[1:])
    source = source_of(folder, tmp_path)
    source.batch(np.array([0]), [0])
    with pytest.raises(DataError, match=rf"shard .*{victim.name} is missing or damaged\. The same .* makes it again"):
        source.batch(np.array([7]), [0])
    made(folder, tmp_path)
    assert victim.read_bytes() == before
    victim.write_bytes(before[:-1])
    made(folder, tmp_path)
    assert victim.read_bytes() == before


def test_a_cache_of_something_else_is_refused_with_what_differs(folder, tmp_path):
    made(folder, tmp_path / "cache")
    other = tmp_path / "other"
    for place in range(4):
        (other / f"class{place % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (place, 0, 0)).save(other / f"class{place % 2}" / f"{place}.png")
    with pytest.raises(DataError, match=r"another recipe: data_digest is .* there and .* now; count is 20 there and 4"):
        source_of(other, tmp_path / "cache")
    with pytest.raises(DataError, match=r"another recipe: image_size is 32 there and 64 now; shape is \(16, 4, 4\)"):
        source_of(folder, tmp_path / "cache", "data.image_size=64")
    with pytest.raises(DataError, match="another recipe: dtype is float32 there and float16 now"):
        made(folder, tmp_path / "cache", "float16")
    # Another type of the stored numbers alone is no other recipe for training.
    assert isinstance(source_of(folder, tmp_path / "cache"), StoredLatents)


def test_weights_of_another_latent_space_are_another_recipe(folder, tmp_path, monkeypatch):
    made(folder, tmp_path)
    real = build_components

    def other(config, *words):
        components = real(config, *words)
        components.latent.digest = "0" * 64
        return components

    data, config = open_data(composition(folder, f"latent.cache={tmp_path}").config)
    with pytest.raises(DataError, match=r"latent_digest is .* there and 0000000000000000 now"):
        training_source(data, config, other(config, "cpu", "float32"))


def test_other_options_of_a_row_are_another_recipe(folder, tmp_path, monkeypatch):
    """As where a package changes the preprocessing of its row."""
    made(folder, tmp_path)
    assert read_manifest(tmp_path, LatentCacheManifest).version == 2
    changed = replace(LATENTS["toy-ae"], options={"size": 64})
    monkeypatch.setitem(LATENTS._rows, "toy-ae", changed)
    with pytest.raises(DataError, match=r"another recipe: options is \{\} there and \{'size': 64\} now"):
        source_of(folder, tmp_path)


def test_a_cache_made_before_a_commit_was_pinned_still_serves(folder, tmp_path, monkeypatch):
    """The hash of the loaded weights, which tells other ones, is the same."""
    made(folder, tmp_path)
    files = WeightFiles(part="vae", names=("a",), hub="org/name", revision="a" * 40, licence="MIT")
    monkeypatch.setitem(LATENTS._rows, "toy-ae", replace(LATENTS["toy-ae"], weights=(files,)))
    assert source_of(folder, tmp_path)


def test_bad_requests_are_refused_and_write_nothing(folder, tmp_path, monkeypatch):
    config = composition(folder).config
    with pytest.raises(ConfigError, match=r"--dtype float8: unknown\. Allowed: float16, bfloat16, float32"):
        prepare_latents(config, tmp_path / "a", "float8")
    with pytest.raises(ConfigError, match=r"--engine slurm: unknown\. Allowed: local, ray"):
        prepare_latents(config, tmp_path / "a", "float16", Spread(engine="slurm"))
    with pytest.raises(ConfigError, match=r"data\.corrupt=skip replaces some"):
        prepare_latents(composition(folder, "data.corrupt=skip").config, tmp_path / "a", "float16")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    with pytest.raises(DataError, match=r"holds 1 file\(s\) of no earlier latent cache"):
        prepare_latents(config, tmp_path / "mine", "float16")
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"needs 0\.00 GiB more, 0\.00 GiB are free"):
        prepare_latents(config, tmp_path / "full", "float16")
    assert not list(tmp_path.rglob("*.bin"))
    with pytest.raises(DataError, match="absent is no latent cache"):
        source_of(folder, tmp_path / "absent")


def test_extra_losses_and_a_cache_exclude_each_other(folder, tmp_path, monkeypatch):
    from watch import register

    register(monkeypatch)
    made(folder, tmp_path)
    with pytest.raises(ConfigError, match=r"extra losses \(encoded\) may look at images"):
        source_of(folder, tmp_path, "losses={encoded: {weight: 1}}")


def test_latents_that_do_not_fit_into_the_type_are_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(ToyAE, "encode", lambda self, images: torch.full((len(images), 16, 4, 4), 1e6))
    with pytest.raises(DataError, match="a latent of images 0 to 15 does not fit into float16"):
        made(folder, tmp_path, "float16")


def test_part_of_the_data_is_read_in_order():
    data, _ = open_data(compose("digits", overrides=["data.workers=0"]).config)
    found = list(in_order(data, 4, within=range(10, 17)))
    assert [len(batch.image) for batch in found] == [4, 3]
    assert torch.cat([batch.label for batch in found]).tolist() == [data.label(index) for index in range(10, 17)]


# ---- Statistics


def test_statistics_are_those_of_all_images_at_once():
    x = torch.randn(50, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1000
    streaming = cache.Statistics()
    for part in x.split([1, 20, 7, 22]):
        streaming.add(part)
    found = streaming.finish()
    torch.testing.assert_close(found["mean"].double(), x.mean(0), atol=1e-4, rtol=0)
    torch.testing.assert_close(found["var"].double(), x.var(0, correction=0), atol=0, rtol=1e-5)
    assert found["var"].dtype == torch.float32
    constant = cache.Statistics()
    constant.add(torch.ones(4, 2, 1, 1))
    with pytest.raises(DataError, match=r"2 of 2 values of the latent never vary over 4 images"):
        constant.finish()


def test_statistics_of_a_latent_space_are_computed_without_them_and_used_by_it(folder, tmp_path):
    """Of an encoder with stand-in weights, on the pictures at its size."""
    given = tmp_path / "given"
    given.mkdir()
    WRITERS["rae-dinov2-b"](given)
    (given / "statistics" / "stats.pt").unlink()
    words = ["latent=rae-dinov2-b", f"latent.weights={given}", "data.image_size=256"]
    file = prepare_statistics(composition(folder, *words).config, given)
    assert file == given / "statistics" / "stats.safetensors"
    assert {name: tensor.shape for name, tensor in load_file(file).items()} == {
        "mean": (768, 16, 16),
        "var": (768, 16, 16),
    }
    data, _ = open_data(composition(folder, *words).config)
    latent = open_latent("rae-dinov2-b", "cpu", str(given))
    assert isinstance(latent, RAE)
    with torch.no_grad():
        z = torch.cat([latent.encode(batch.image.float() / 255) for batch in in_order(data, 4)])
    assert z.mean(0).abs().max() < 1e-2
    # The epsilon of 1e-5 under the root takes a little off.
    assert z.var(0, correction=0).max() < 1.001


def test_statistics_of_a_space_that_has_none_are_those_of_its_latents(folder, tmp_path):
    file = prepare_statistics(composition(folder).config, tmp_path)
    found = load_file(file)
    assert found["mean"].shape == LATENTS["toy-ae"].shape(32)
    data, _ = open_data(composition(folder).config)
    latent = open_latent("toy-ae", "cpu")
    z = torch.cat([latent.encode(batch.image.float() / 255) for batch in in_order(data, 7)])
    torch.testing.assert_close(found["mean"], z.mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found["var"], z.var(0, correction=0), atol=1e-5, rtol=1e-4)


def test_statistics_that_cannot_be_used_or_written_are_refused_before_an_image_is_read(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "in_order", lambda *given: pytest.fail("images were read"))
    with pytest.raises(ConfigError, match=r"takes images of 32 pixels, data\.image_size is 64"):
        prepare_statistics(composition(folder, "latent=toy-rae", "data.image_size=64").config, tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="file is no folder"):
        prepare_statistics(composition(folder).config, tmp_path / "file")
    assert not (tmp_path / "out").exists()


def test_statistics_that_do_not_vary_leave_no_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(ToyAE, "encode", lambda self, images: torch.ones(len(images), 16, 4, 4))
    with pytest.raises(DataError, match="never vary"):
        prepare_statistics(composition(folder).config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_verb_says_the_size_first_and_what_it_made(folder, tmp_path, monkeypatch, capsys):
    words = ["prepare", "latents", "--task", "imagefolder", "--method", "toy-ae", "--data", folder, "data.workers=0"]

    def run(*more):
        monkeypatch.setattr(sys, "argv", ["nanogen", *map(str, [*words, *more])])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    code, out, err = run("--out", tmp_path / "cache")
    assert (code, out) == (0, f"{tmp_path / 'cache'}: 20 latents of toy-ae in float16\n")
    assert "20 latents of 16x4x4 in float16, 9.6e-06 GiB in 2 shards" in err
    code, out, _ = run("--out", tmp_path / "stats", "--statistics")
    assert (code, out) == (0, f"{tmp_path / 'stats' / 'statistics' / 'stats.safetensors'}\n")
    for more in (("--part", "3/64"), ("--workers", "2"), ("--engine", "ray")):
        code, _, err = run("--out", tmp_path / "none", "--statistics", *more)
        assert (code, "--statistics are of all images in one process" in err) == (2, True)
    assert not (tmp_path / "none").exists()
    code, _, err = run("--out", tmp_path / "cache", "--part", "two")
    assert code == 2
    assert "--part two: give i/n" in err
