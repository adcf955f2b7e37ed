"""Released files become files of ours: networks with their averaged weights, latent spaces without pickles."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from standins import WRITERS, randomize, tiny
from tiny import MODEL, QUIET

from diffusionbench.errors import CheckpointError
from nanogen import cli
from nanogen.config import compose
from nanogen.importing import import_network, prepare_weights
from nanogen.latents import LATENTS, open_latent
from nanogen.model.dit import DDT
from nanogen.model.released import sources
from nanogen.pipeline import open_weights
from nanogen.resolve import resolve
from nanogen.sample import SampleRequest, sample_run

CONFIG = compose("digits", overrides=[*MODEL, *QUIET]).config


@pytest.fixture
def net():
    return randomize(DDT(resolve(CONFIG).shape))


def as_released(net) -> dict[str, torch.Tensor]:
    tensors = {"enc_rope.freqs_cos": torch.zeros(2, 2)}
    for name, parameter in net.named_parameters():
        names = sources(name, net.shape)
        tensors |= dict(zip(names, parameter.detach().clone().chunk(len(names)), strict=True))
    return tensors


@pytest.mark.parametrize(
    "wrap, step",
    [
        (lambda tensors: tensors, 0),
        (lambda tensors: {"ema": tensors, "model": {}, "step": 1234, "epoch": 1, "optimizer": {"state": {}}}, 1234),
        (lambda tensors: {"ema": tensors, "step": torch.tensor(77)}, 77),
    ],
    ids=["bare", "training file", "step as a tensor"],
)
def test_a_released_network_is_sampled_as_one_of_ours(wrap, step, net, tmp_path):
    torch.save(wrap(as_released(net)), tmp_path / "released.pt")
    out = tmp_path / "new" / "ema.safetensors"
    assert import_network(tmp_path / "released.pt", CONFIG, out) == step
    loaded = open_weights(out, "cpu")
    assert (loaded.step, loaded.config) == (step, CONFIG)
    expected = dict(net.named_parameters())
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.net.named_parameters())
    sample_run(out, [], SampleRequest("3", [], 2, 0, None), tmp_path / "made.npz")
    assert np.load(tmp_path / "made.npz")["arr_0"].shape == (2, 8, 8, 3)


WRONG = {
    r"missing s_embedder\.proj\.bias; unknown cls_in_norm_enc\.weight": lambda tensors: tensors.update(
        {"cls_in_norm_enc.weight": tensors.pop("s_embedder.proj.bias")}
    ),
    r"t_embedder\.W: \[3\] instead of \[256\].*Choose the task, method and scale": lambda tensors: tensors.update(
        {"t_embedder.W": torch.zeros(3)}
    ),
    "states the step -1": lambda tensors: tensors.update(ema=dict(tensors), step=-1),
    r"unknown 3\.": lambda tensors: tensors.update({3: torch.zeros(1)}),
    r"unknown 3\. Choose": lambda tensors: tensors.update(ema={**tensors, 3: torch.zeros(1)}),
    r"holds no weights: time\.frequencies holds int32\. Give": lambda tensors: tensors.update(
        {"t_embedder.W": tensors["t_embedder.W"].int()}
    ),
    r"holds no weights: time\.frequencies holds values that are not finite\. Give": lambda tensors: tensors.update(
        {"t_embedder.W": torch.full((256,), torch.nan)}
    ),
    "holds sparse tensors or some without values": lambda tensors: tensors.update(
        {"t_embedder.W": tensors["t_embedder.W"].to_sparse()}
    ),
    "holds sparse tensors or some without values. Get": lambda tensors: tensors.update(
        ema={**tensors, "t_embedder.W": torch.empty(256, device="meta")}
    ),
    "holds more than tensors": lambda tensors: tensors.update(ema=[1]),
}


@pytest.mark.parametrize("reason", WRONG)
def test_files_of_other_networks_are_refused_with_the_names_that_differ(reason, net, tmp_path):
    tensors = as_released(net)
    WRONG[reason](tensors)
    torch.save(tensors, tmp_path / "released.pt")
    with pytest.raises(CheckpointError, match=reason):
        import_network(tmp_path / "released.pt", CONFIG, tmp_path / "ema.safetensors")
    assert not (tmp_path / "ema.safetensors").exists()


def test_a_file_that_holds_code_is_refused(tmp_path):
    torch.save({"ema": CONFIG}, tmp_path / "released.pt")
    # And it is not advised to execute it.
    with pytest.raises(CheckpointError, match="cannot be read as plain tensors: they are pickled"):
        import_network(tmp_path / "released.pt", CONFIG, tmp_path / "ema.safetensors")
    with pytest.raises(CheckpointError, match=r"absent\.pt is not a file"):
        import_network(tmp_path / "absent.pt", CONFIG, tmp_path / "ema.safetensors")


@pytest.mark.parametrize("name", ["rae-pe-l", "rae-dinov2-b"])
def test_pickled_files_of_a_latent_space_are_converted_once(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))
    given = tmp_path / "given"
    given.mkdir()
    WRITERS[name](given)
    before = open_latent(name, "cpu", str(given))
    found = prepare_weights(name, given)
    assert list(found) == ["encoder", "decoder", "statistics"]
    home = tmp_path / "cache" / "latents" / name
    assert found["decoder"] == [home / "decoder" / "decoder.safetensors"]
    assert set(load_file(home / "statistics" / "stats.safetensors")) == {"mean", "var"}
    assert not list(home.rglob("*.pt"))
    if name == "rae-dinov2-b":
        # Safetensors stay where they are.
        assert found["encoder"][1] == given / "encoder" / "model.safetensors"
        return
    # From then on no pickle is read, and the space is the same.
    monkeypatch.setattr(torch, "load", lambda *words, **more: pytest.fail("a pickle was read"))
    assert open_latent(name, "cpu").digest == before.digest
    assert prepare_weights(name)["encoder"] == [home / "encoder" / "PE-Core-L14-336.safetensors"]


def run(monkeypatch, capsys, *words) -> str:
    monkeypatch.setattr(sys, "argv", ["nanogen", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    return capsys.readouterr().out


def test_both_verbs_say_what_they_wrote(net, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))
    torch.save({"ema": as_released(net), "step": 5}, tmp_path / "released.pt")
    out = tmp_path / "ours.safetensors"
    words = ["import", tmp_path / "released.pt", "--task", "digits", "--scale", "laptop", "--out", out, *MODEL]
    assert run(monkeypatch, capsys, *words) == f"{out}: step 5\n"
    assert open_weights(out, "cpu").step == 5
    (tmp_path / "given").mkdir()
    WRITERS["taef2"](tmp_path / "given")
    monkeypatch.setitem(LATENTS._rows, "taef2", tiny(LATENTS["taef2"]))
    printed = run(monkeypatch, capsys, "prepare", "weights", "taef2", "--weights", tmp_path / "given")
    assert printed.startswith(f"autoencoder: {tmp_path / 'given' / 'taef2_encoder.pth'}, ")


def test_pinned_files_are_never_replaced_by_others(tmp_path, monkeypatch):
    """Of a file whose hash the row states a conversion would not be checked."""
    (tmp_path / "taef2_encoder.safetensors").write_bytes(b"")
    (tmp_path / "taef2_decoder.pth").write_bytes(b"")
    assert LATENTS["taef2"].weights[0].inside(tmp_path) is None
