"""Weights, text caches and prompts of strangers: refused in one sentence that says what is wrong with them."""

from __future__ import annotations

import json
import os
import struct

import numpy as np
import pytest
import torch
from reference import filled, released_layout, tiny_shape
from safetensors.torch import save_file
from tiny import words

from diffusionbench.errors import CheckpointError, ConfigError, DataError
from nanogen.config import compose
from nanogen.model.dit import DDT
from nanogen.model.released import from_released
from nanogen.pipeline import load
from nanogen.resolve import resolve
from nanogen.sample import read_prompts
from nanogen.shards import read_manifest
from nanogen.text import open_spec
from nanogen.text.cache import CacheManifest, check_index

CONFIG = compose("digits", overrides=words(2)).config
HEADER = {"config": CONFIG.model_dump_json(), "step": "3"}


def tensors() -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in DDT(resolve(CONFIG).shape).named_parameters()}


def changed(**keys: object) -> dict[str, str]:
    return {**HEADER, "config": json.dumps(json.loads(HEADER["config"]) | keys)}


HEADERS = {
    "carry no config": {"step": "3"},
    "carry no step": {"config": HEADER["config"]},
    "holds no config and step": {**HEADER, "step": "three"},
    "holds no config and step ": {**HEADER, "step": "-1"},
    "holds no config and step  ": {**HEADER, "step": "9" * 5_000},
    "holds no config": {**HEADER, "config": "{"},
    "holds no config ": {**HEADER, "config": "[1, 2]"},
    "deeper": {**HEADER, "config": '{"a":' * 50_000},
    "unknown key": changed(extra=1),
    "seed": changed(seed=10**30),
    "'model' is a section": changed(model=3),
    "latent": changed(latent={"name": "none", "cache_mb": 0}),
}


@pytest.mark.parametrize("reason", HEADERS)
def test_a_header_that_is_not_ours_is_refused(reason, tmp_path):
    save_file(tensors(), tmp_path / "w.safetensors", HEADERS[reason])
    with pytest.raises((CheckpointError, ConfigError), match=reason.strip()) as refused:
        load(tmp_path / "w.safetensors", None, "cpu", "float32")
    assert len(str(refused.value)) < 1_000


def test_a_network_that_no_memory_holds_is_not_built(tmp_path):
    model = json.loads(HEADER["config"])["model"] | {"encoder_hidden_size": 16_384, "encoder_depth": 8}
    save_file(tensors(), tmp_path / "w.safetensors", changed(model=model))
    with pytest.raises(
        CheckpointError, match=r"of another architecture: its config has 2.,...,...,... parameters, it holds"
    ):
        load(tmp_path / "w.safetensors", None, "cpu", "float32")
    with pytest.raises(ConfigError, match="parameters"):
        resolve(compose("digits", overrides=["model.encoder_hidden_size=131072", "model.encoder_depth=1000"]).config)
    with pytest.raises(ConfigError, match="image tokens"):
        resolve(compose("digits", overrides=["data.image_size=32768", "model.pixel_grid=32768"]).config)


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda weights: weights.to(torch.int32), "holds int32"),
        (lambda weights: weights * float("nan"), "not finite"),
        (lambda weights: weights[..., :1], "needed"),
    ],
    ids=["integers", "nan", "shape"],
)
def test_tensors_that_are_no_weights_are_refused(change, reason, tmp_path):
    given = tensors()
    name = next(iter(given))
    save_file({**given, name: change(given[name]).contiguous()}, tmp_path / "w.safetensors", HEADER)
    with pytest.raises(CheckpointError, match=rf"{name}.*{reason}"):
        load(tmp_path / "w.safetensors", None, "cpu", "float32")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 60) + b'{"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,9]}}    ',
        struct.pack("<Q", 70) + b'{"a":{"dtype":"F32","shape":[99999999999,99999],"data_offsets":[0,8]}}' + bytes(8),
    ],
    ids=range(7),
)
def test_a_file_that_is_no_safetensors_is_refused(content, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"w\.safetensors"):
        load(tmp_path / "w.safetensors", None, "cpu", "float32")


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "folder").mkdir()
    for path in tmp_path.iterdir():
        with pytest.raises(CheckpointError, match="cannot be read"):
            load(path, None, "cpu", "float32")


@pytest.mark.parametrize(
    "name, change, shown",
    [
        ("blocks.0.attn.k.weight", lambda part: part[:, :-1], "[24, 24] + [24, 23] + [24, 24] instead of [72, 24]"),
        ("blocks.0.attn.k.weight", lambda part: part[:-1], "[24, 24] + [23, 24] + [24, 24] instead of [72, 24]"),
        ("blocks.0.attn.k.weight", lambda part: part[None], "[24, 24] + [1, 24, 24] + [24, 24] instead of [72, 24]"),
        ("blocks.0.attn.k.weight", lambda part: part.sum(), "[24, 24] + [] + [24, 24] instead of [72, 24]"),
        ("blocks.0.attn.proj.weight", lambda part: part.sum(), "blocks.0.attn.proj.weight: [] instead of [24, 24]"),
    ],
    ids=range(5),
)
def test_a_wrongly_shaped_part_of_a_fused_tensor_is_listed(name, change, shown):
    shape = tiny_shape()
    released = filled(released_layout(shape))
    released[name] = change(released[name])
    with pytest.raises(CheckpointError, match="shapes differ") as refused:
        from_released(released, shape)
    assert shown in str(refused.value)


MANIFEST = {
    "encoder": "e",
    "encoder_digest": "0",
    "max_tokens": 8,
    "dtype": "float16",
    "width": 4,
    "data_digest": "0",
    "captions": 2,
    "tokens": 5,
    "truncated": 0,
    "index_sha256": "0" * 64,
}


@pytest.mark.parametrize("key", ["max_tokens", "width", "captions", "tokens", "truncated"])
@pytest.mark.parametrize("value", [-1, 10**300, "x", None, float("inf")])
def test_a_manifest_of_no_cache_is_refused(key, value, tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST | {key: value}))
    with pytest.raises(DataError, match="no text cache"):
        read_manifest(tmp_path, CacheManifest)


KEYS, STARTS = np.array([[1, 0], [2, 0]], np.uint64), np.array([0, 3, 5])


@pytest.mark.parametrize(
    "keys, starts",
    [
        (KEYS[:1], STARTS),
        (KEYS[:, 0], STARTS),
        (KEYS.astype(np.float64), STARTS),
        (KEYS[::-1], STARTS),
        (KEYS, STARTS[:2]),
        (KEYS, STARTS.astype(np.float64)),
        (KEYS, np.array([0, 9, 5])),
        (KEYS, np.array([-3, 3, 5])),
        (KEYS, np.array([0, 3, 6])),
    ],
)
def test_an_index_that_is_not_of_its_states_is_refused(keys, starts):
    manifest = CacheManifest.model_validate(MANIFEST)
    check_index(KEYS, STARTS, manifest)
    with pytest.raises(ValueError, match=r"index\.npz"):
        check_index(keys, starts, manifest)


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"hidden_size": "x"}', '{"hidden_size": -1}', '{"hidden_size": 1e400}', "[" * 9_999]
)
def test_an_encoder_folder_without_a_width_is_refused(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match="width"):
        open_spec(str(tmp_path))


def test_prompts_that_are_no_text_file_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin").write_bytes(b"a caf\xe9")
    (tmp_path / "folder").mkdir()
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**33)
    for path in tmp_path.iterdir():
        with pytest.raises(DataError, match="prompt file"):
            read_prompts(path)
