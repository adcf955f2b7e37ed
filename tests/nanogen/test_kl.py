"""Variational autoencoders through diffusers: shift and scale as stated, preprocessing, packing, wrong files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from standins import STATED, WRITERS, install

from diffusionbench.commits import COMMITS
from diffusionbench.errors import CheckpointError, MissingPackageError, RequestError
from nanogen.config import compose
from nanogen.latents import LATENTS, open_latent
from nanogen.latents.kl import normalisation
from nanogen.resolve import resolve

pytest.importorskip("diffusers", reason="variational autoencoders need the extra vae")

NAMES = [name for name, spec in LATENTS.items() if "model" in spec.options]
# As published: latent at 256 px, patch, first shift and scale of the row or of what its repository states.
PUBLISHED = {
    "sd-vae-ema": ((4, 32, 32), 2, 0, 0.18215),
    "sd-vae-mse": ((4, 32, 32), 2, 0, 0.18215),
    "sdxl-vae": ((4, 32, 32), 2, 0, 0.13025),
    "sd3.5-vae": ((16, 32, 32), 2, 0.0609, 1.5305),
    "flux1-vae": ((16, 32, 32), 2, 0.1159, 0.3611),
    "flux2-vae": ((128, 16, 16), 1, -1, (0.5 + 1e-5) ** -0.5),
    "qwen-image-vae": ((16, 32, 32), 2, -0.7571, 1 / 2.8184),
    "e2e-flux1-vae": ((16, 32, 32), 2, 0, 0.18215),
    "e2e-sd3.5-vae": ((16, 32, 32), 2, 0, 0.18215),
    "e2e-qwen-image-vae": ((16, 32, 32), 2, -0.7571, 1 / 2.8184),
    "e2e-vavae": ((32, 16, 16), 1, 0, 1),
    "e2e-sd-vae-mse": ((4, 32, 32), 2, 0, 0.18215),
}


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def folder(name, tmp_path_factory):
    root = tmp_path_factory.mktemp(name)
    WRITERS[name](root)
    return root


@pytest.fixture(scope="module")
def latent(name, folder):
    return open_latent(name, "cpu", str(folder))


def reference(name, folder):
    """The model of the library itself, and its map of images in [-1, 1] to the mode as [B, C, h, w] and back."""
    import diffusers

    model = getattr(diffusers, LATENTS[name].options["model"]).from_pretrained(folder).eval()
    if isinstance(model, diffusers.AutoencoderKLQwenImage):
        return (
            model,
            lambda x: model.encode(x.unsqueeze(2)).latent_dist.mode().squeeze(2),
            lambda z: model.decode(z.unsqueeze(2)).sample.squeeze(2),
        )
    return model, lambda x: model.encode(x).latent_dist.mode(), lambda z: model.decode(z).sample


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def packed(z):
    """Channel 4c + 2dy + dx from offset (dy, dx), written out."""
    b, c, h, w = z.shape
    return z.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, 4 * c, h // 2, w // 2)


def test_every_published_row_is_here_with_its_shape(name):
    assert set(PUBLISHED) == set(NAMES)
    shape, patch, *_ = PUBLISHED[name]
    assert (LATENTS[name].shape(256), LATENTS[name].patch_size) == (shape, patch)
    if name != "e2e-sd-vae-mse":
        assert resolve(compose("imagenet256", name).config).shape.latent_shape == shape


@torch.no_grad()
def test_the_latent_is_the_shifted_and_scaled_mode_of_the_images_in_minus_1_to_1(name, folder, latent, images):
    _, _, shift, scale = PUBLISHED[name]
    _, mode, decode = reference(name, folder)
    z = mode(2 * images - 1)
    if LATENTS[name].options.get("packed"):
        z = packed(z)
    found = latent.encode(images)
    torch.testing.assert_close(found[:, 0], (z[:, 0] - shift) * scale, atol=1e-4, rtol=1e-4)
    # Shift and scale of all channels are undone before the decoder.
    back = decode(mode(2 * images - 1))
    torch.testing.assert_close(latent.decode(found), ((back + 1) / 2).clamp(0, 1), atol=1e-4, rtol=1e-4)
    assert latent.decode(1e4 * found).min() >= 0
    assert latent.decode(1e4 * found).max() <= 1


def test_statistics_per_channel_are_those_of_each_channel(tmp_path):
    WRITERS["e2e-vavae"](tmp_path)
    latent = open_latent("e2e-vavae", "cpu", str(tmp_path))
    assert latent._shift.flatten().tolist() == pytest.approx(STATED["e2e-vavae"]["latents_mean"])
    assert latent._scale.flatten().tolist() == pytest.approx([1 / std for std in STATED["e2e-vavae"]["latents_std"]])


QWEN = LATENTS["qwen-image-vae"].options


@pytest.mark.parametrize(
    "config, options, expected",
    [
        ({"latents_mean": [1.0], "latents_std": [4.0], "scaling_factor": 9}, {"shift": 0, "scale": 2}, ([1.0], [0.25])),
        ({"scaling_factor": 9, "shift_factor": 8}, {"shift": 0, "scale": 2}, ([0], [2])),
        ({"scaling_factor": 9, "shift_factor": 8, "latents_mean": None}, {}, ([8], [9])),
        ({"scaling_factor": 9, "shift_factor": None}, {}, ([0], [9])),
        ({}, {}, ([0], [1])),
        ({}, QWEN, (list(QWEN["mean"]), [1 / std for std in QWEN["std"]])),
    ],
    ids=["the model per channel", "the row", "the model", "no shift", "nothing", "the row per channel"],
)
def test_the_first_that_states_shift_and_scale_wins(config, options, expected):
    assert normalisation(config, options) == expected


def test_the_statistics_of_qwen_image_are_those_of_its_class():
    import inspect

    import diffusers

    stated = inspect.signature(diffusers.AutoencoderKLQwenImage).parameters
    assert list(QWEN["mean"]) == stated["latents_mean"].default
    assert list(QWEN["std"]) == stated["latents_std"].default


def test_weights_are_read_as_float32_and_draw_nothing(tmp_path):
    WRITERS["sd-vae-ema"](tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file({key: tensor.half() for key, tensor in load_file(file).items()}, file)
    before = torch.random.get_rng_state()
    latent = open_latent("sd-vae-ema", "cpu", str(tmp_path))
    assert torch.equal(before, torch.random.get_rng_state())
    assert {weight.dtype for weight in latent._net.parameters()} == {torch.float32}
    assert latent.encode(torch.zeros(1, 3, 32, 32)).dtype == torch.float32


def test_attention_of_older_files_is_read(tmp_path):
    """The files of 2022 name the maps of attention otherwise."""
    WRITERS["sd-vae-ema"](tmp_path)
    images = torch.rand(1, 3, 32, 32)
    expected = open_latent("sd-vae-ema", "cpu", str(tmp_path)).encode(images)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = load_file(file)
    for new, old in names.items():
        tensors = {key.replace(new, old): tensor for key, tensor in tensors.items()}
    assert any(".query." in key for key in tensors)
    save_file(tensors, file)
    assert torch.equal(open_latent("sd-vae-ema", "cpu", str(tmp_path)).encode(images), expected)


def test_the_digest_follows_weights_and_configuration(tmp_path):
    WRITERS["flux1-vae"](tmp_path)
    first = open_latent("flux1-vae", "cpu", str(tmp_path)).digest
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"_diffusers_version": "9"}))
    assert open_latent("flux1-vae", "cpu", str(tmp_path)).digest == first
    (tmp_path / "config.json").write_text(json.dumps(config | {"scaling_factor": 1.0}))
    assert open_latent("flux1-vae", "cpu", str(tmp_path)).digest != first


def test_files_may_lie_in_a_folder_of_their_part_or_in_the_cache(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))
    own, cached = tmp_path / "mine" / "vae", tmp_path / "cache" / "latents" / "sd-vae-ema"
    for place in (own, cached):
        place.mkdir(parents=True)
        WRITERS["sd-vae-ema"](place)
    open_latent("sd-vae-ema", "cpu", str(tmp_path / "mine"))
    assert "does not hold" not in capsys.readouterr().err
    open_latent("sd-vae-ema", "cpu")
    assert capsys.readouterr().err == "latent space 'sd-vae-ema': shift 0, scale 0.18215\n"
    open_latent("sd-vae-ema", "cpu", str(tmp_path / "absent"))
    assert f"absent does not hold the vae of 'sd-vae-ema'; using {cached}" in capsys.readouterr().err


def test_files_of_the_hub_are_taken_at_the_pinned_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "none"))
    (weights,) = LATENTS["flux2-vae"].weights
    snapshot = tmp_path / "models--black-forest-labs--FLUX.2-dev" / "snapshots" / weights.revision / "vae"
    snapshot.mkdir(parents=True)
    WRITERS["flux2-vae"](snapshot)
    assert open_latent("flux2-vae", "cpu").encode(torch.zeros(1, 3, 32, 32)).shape == (1, 128, 2, 2)
    # Where no commit is pinned, the one that the hub calls main.
    repository = tmp_path / "models--REPA-E--e2e-vavae-hf"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    WRITERS["e2e-vavae"](repository / "snapshots" / "abc")
    assert open_latent("e2e-vavae", "cpu").digest


def test_the_hub_is_asked_for_the_files_at_the_pinned_commit(tmp_path, monkeypatch, capsys):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked = []
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "none"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def download(repository, revision, allow_patterns):
        asked.append((repository, revision, allow_patterns))
        raise OSError("403 Forbidden: you are not in the authorized list")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr("nanogen.hub.reachable", lambda: True)
    with pytest.raises(RequestError, match=r"cannot be fetched: 403 Forbidden.*gated: accept it there first"):
        open_latent("flux2-vae", "cpu")
    (weights,) = LATENTS["flux2-vae"].weights
    names = ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"]
    assert asked == [("black-forest-labs/FLUX.2-dev", weights.revision, names)]
    assert "licence FLUX [dev] Non-Commercial, gated" in capsys.readouterr().err
    # A large model may lie in several files, whose number nobody knows before.
    repository = "facebook/webssl-dino2b-full2b-224"
    with pytest.raises(RequestError, match=f"cannot be fetched.*{repository} at {COMMITS[repository]}"):
        open_latent("rae-webssl-2b", "cpu")
    several = ["config.json", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json"]
    assert asked[1:] == [(repository, COMMITS[repository], several)]
    with pytest.raises(RequestError, match=r"cannot be fetched.*newest commit \(none is pinned\)"):
        open_latent("e2e-vavae", "cpu")
    assert asked[2][:2] == ("REPA-E/e2e-vavae-hf", None)


@pytest.mark.parametrize(
    "error, reason",
    [
        ("GatedRepoError", r"it is gated: its licence must be accepted on its page.*logged in"),
        ("RepositoryNotFoundError", r"the hub has no repository of that name; it was renamed"),
        ("RevisionNotFoundError", r"its repository has no such commit"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(error, reason, tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    httpx = pytest.importorskip(huggingface_hub.errors.HfHubHTTPError.__mro__[1].__module__.partition(".")[0])
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "none"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    answer = httpx.Response(404, request=httpx.Request("GET", "https://huggingface.co"))

    def refuse(*_, **__):
        raise getattr(huggingface_hub.errors, error)("404 Client Error. (Request ID: 1)", response=answer)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr("nanogen.hub.reachable", lambda: True)
    with pytest.raises(
        RequestError, match=rf"^latent space 'sd3\.5-vae' needs its vae, which .*{reason}.*latent\.weights"
    ):
        open_latent("sd3.5-vae", "cpu")


def edit(folder: Path, **changes) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


WRONG = {
    "describes a AutoencoderTiny, expected AutoencoderKL": lambda folder: edit(folder, _class_name="AutoencoderTiny"),
    "describes a latent of 8 channels, expected 16": lambda folder: edit(folder, latent_channels=8),
    "states 3 values of shift or scale, expected 16": lambda folder: edit(
        folder, latents_mean=[0, 0, 0], latents_std=[1, 1, 1]
    ),
    "states a deviation of 0": lambda folder: edit(folder, latents_mean=[0] * 16, latents_std=[1] * 15 + [0]),
    "states a scale that is not positive": lambda folder: edit(folder, scaling_factor=0.0),
    "holds no JSON object": lambda folder: (folder / "config.json").write_text("["),
    "diffusers cannot open": lambda folder: (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"x" * 100),
}


@pytest.mark.parametrize("reason", WRONG)
def test_wrong_files_are_refused_in_a_sentence(reason, tmp_path):
    WRITERS["flux1-vae"](tmp_path)
    WRONG[reason](tmp_path)
    with pytest.raises(CheckpointError, match=reason):
        open_latent("flux1-vae", "cpu", str(tmp_path))


def test_missing_and_foreign_tensors_are_listed(tmp_path):
    WRITERS["flux1-vae"](tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["other.weight"] = tensors.pop("decoder.conv_out.bias")
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"missing decoder\.conv_out\.bias; unknown other\.weight"):
        open_latent("flux1-vae", "cpu", str(tmp_path))


def test_tensors_of_another_width_are_named(tmp_path):
    WRITERS["flux1-vae"](tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["decoder.conv_in.bias"] = torch.zeros(3)
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"size mismatch for decoder\.conv_in\.bias"):
        open_latent("flux1-vae", "cpu", str(tmp_path))


def test_a_variance_of_zero_in_the_batch_norm_is_refused(tmp_path):
    WRITERS["flux2-vae"](tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["bn.running_var"][3] = 0
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match="states a deviation of 0"):
        open_latent("flux2-vae", "cpu", str(tmp_path))


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    WRITERS["sd-vae-ema"](tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(MissingPackageError, match=r"Latent space 'sd-vae-ema' needs the package 'diffusers'.*\[vae\]"):
        open_latent("sd-vae-ema", "cpu", str(tmp_path))


def test_stand_ins_come_with_their_row(tmp_path, monkeypatch):
    spec = install("sd-vae-ema", tmp_path, monkeypatch)
    assert replace(spec, folder=None) == LATENTS["sd-vae-ema"]
