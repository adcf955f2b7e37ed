"""No step of a training waits for the device: nothing is read back, and copies come from pinned memory."""

from __future__ import annotations

import itertools

import pytest
import torch
from encoders import save_encoder
from tiny import tiny
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from nanogen import rng
from nanogen.build import build_components
from nanogen.data.ahead import prepared_ahead
from nanogen.data.opening import open_dataset
from nanogen.data.order import batches
from nanogen.objectives import OBJECTIVES
from nanogen.optim import Updater
from nanogen.train import build, condition_ahead, draw_ahead, flow_updates, open_data

# What fetches a value from a device, as torch calls it.
FETCHES = {"aten::item", "aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    pytest.importorskip("transformers", reason="text encoders need the extra t2i")
    return save_encoder(tmp_path_factory.mktemp("encoder"), "bert")


def steps(device: str, *overrides: str):
    data, config = open_data(tiny(9, *overrides).config)
    components = build_components(config, device, "float32")
    state = build(config, components, len(data))
    loader = batches(data, seed=config.seed, batch_size=8, accumulation=config.train.accumulation)
    loader = prepared_ahead(loader, state.device, condition_ahead(components, config))
    return flow_updates(state, components, config, loader, 9)


def settings(condition: str, encoder) -> tuple[str, ...]:
    text = ("data.template='one {class} circle'", "condition.kind=text", f"condition.encoder={encoder}")
    return (*(text if condition == "text" else ()), "train.accumulation=2")


@pytest.mark.parametrize("condition", ["class", "text"])
def test_a_step_fetches_nothing(condition, encoder, monkeypatch):
    loop = steps("cpu", *settings(condition, encoder))
    # Captions are encoded in the first steps, ten in all; and a step on a CPU reads its own flag at once.
    for _ in itertools.islice(loop, 5):
        pass
    monkeypatch.setattr(Updater, "check", lambda self: None)
    monkeypatch.setattr(Tensor, "tolist", lambda self: pytest.fail("a tensor became a list"))
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        next(loop)
    update = "aten::_fused_adamw_"
    assert update in {event.name for event in seen.events()}
    # On a CPU the update reads its own counters.
    assert not [names for names in map(callers, seen.events()) if names[0] in FETCHES and update not in names]


def callers(event) -> list[str]:
    """Names of a profiled event and of those around it."""
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    return names


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("condition", ["class", "text"])
def test_a_step_waits_for_no_device(condition, encoder):
    loop = steps("cuda:0", *settings(condition, encoder))
    for _ in itertools.islice(loop, 5):
        pass
    torch.cuda.set_sync_debug_mode("error")
    try:
        next(loop)
    finally:
        torch.cuda.set_sync_debug_mode("default")


SETTINGS = {
    "flow": ("objective.name=flow",),
    "reg": ("objective.name=reg",),
    "meanflow": ("objective={name: meanflow, predict: v, fm_ratio: 0.5}", "guidance.scale=1"),
}


@pytest.mark.parametrize("objective", [*OBJECTIVES])
def test_loader_processes_draw_all_numbers_of_a_step(objective, monkeypatch):
    """An objective without an entry fails."""
    components = build_components(open_data(tiny(4, *SETTINGS[objective]).config)[1], "cpu", "float32")
    shape, draw = components.derived.shape.latent_shape, components.objective.draw
    for step in range(6):
        noise = rng.PositionalNoise(3, [5, 6], step=step)
        drawn = noise.ahead(lambda noise: draw_ahead(components.objective, shape, noise))
        wanted, drop = tensors(draw(noise, shape)), noise.uniform("drop")
        assert len(drawn) == len(wanted) + 1
        replayed = rng.PositionalNoise(3, [5, 6], step=step, drawn=drawn)
        with monkeypatch.context() as patch:
            # Of what kind a step is, one number says.
            kind = noise.shared("kind")
            patch.setattr(rng.PositionalNoise, "shared", lambda self, purpose, kind=kind: kind)
            patch.setattr(torch, "Generator", lambda *given: pytest.fail("the training process draws"))
            found = tensors(draw(replayed, shape))
            assert torch.equal(replayed.uniform("drop"), drop)
        assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))


def tensors(state) -> list[Tensor]:
    return torch.utils._pytree.tree_leaves(state)


def test_a_batch_brings_the_noise_of_its_step_from_a_loader_process():
    data = open_dataset("shapes", None, image_size=24)
    plain = batches(data, seed=3, batch_size=4, first_step=7, accumulation=2)
    drawing = batches(data, seed=3, batch_size=4, first_step=7, accumulation=2, workers=1, draw=draw_time)
    for step in (7, 7, 8):
        one, other = next(plain), next(drawing)
        assert torch.equal(one.image, other.image)
        assert not one.noise
        assert one.positions == other.positions
        wanted = rng.PositionalNoise(3, one.positions, step=step).normal("time")
        assert torch.equal(other.noise["time", ()], wanted)


def draw_time(noise: rng.PositionalNoise) -> None:
    noise.normal("time")
