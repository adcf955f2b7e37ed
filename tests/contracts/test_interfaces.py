"""The interfaces carry other methods than those in the tables: small examples that use nothing but what is public."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import tiny
from torch import Tensor, nn

from diffusionbench.errors import ConfigError
from nanogen.build import build_components, build_losses, build_network
from nanogen.guidance import classifier_free
from nanogen.latents import LATENTS, Latent, LatentSpec
from nanogen.losses import LOSSES, LossOptions, LossSpec
from nanogen.losses.loss import ExtraLoss, weighted_terms
from nanogen.model.condition import ClassCondition
from nanogen.model.dit import DDT, Head, Output
from nanogen.model.layers import rotary_angles, unpatchify
from nanogen.objectives import MeanFlowOptions, RegOptions
from nanogen.objectives.flow import Flow
from nanogen.objectives.meanflow import MeanFlow
from nanogen.objectives.objective import Objective
from nanogen.objectives.reg import Reg
from nanogen.pair import Pair
from nanogen.pipeline import ImagePipeline
from nanogen.rng import PositionalNoise, sampling_noise
from nanogen.samplers import SAMPLERS, time_grid


def noise(num: int, step: int = 0) -> PositionalNoise:
    return PositionalNoise(0, range(num), step=step)


def test_loader_processes_draw_noise_and_one_time_for_an_objective_that_asks_for_no_more():
    drawn = noise(3).ahead(lambda ahead: Objective(options=None).draw(ahead, (1, 2, 2)))
    assert {key: tuple(numbers.shape) for key, numbers in drawn.items()} == {
        ("noise", (1, 2, 2)): (3, 1, 2, 2),
        ("time", ()): (3,),
    }


# Two times: a mean velocity in two dimensions.


class GaussianFlow(nn.Module):
    """The mean velocity of data N(mean, exp(2 log_std)) in closed form."""

    def __init__(self, mean: list[float], log_std: float) -> None:
        super().__init__()
        self.mean, self.log_std = nn.Parameter(torch.tensor(mean)), nn.Parameter(torch.tensor(log_std))

    def moved(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """Return where the flow takes z from time t to r: both keep their place among the deviations."""

        def deviation(t: Tensor) -> Tensor:
            return (((1 - t) * self.log_std.exp()) ** 2 + t**2).sqrt()

        return (1 - r) * self.mean + deviation(r) / deviation(t) * (z - (1 - t) * self.mean)

    def forward(self, z, t, condition, r=None, taps=()):
        moved = self.moved(z.flatten(1), t[:, None], r[:, None])
        return Output(((z.flatten(1) - moved) / (t - r)[:, None]).view_as(z))


def test_a_mean_flow_in_two_dimensions_is_learned_and_sampled_in_one_step():
    truth, net = GaussianFlow([1.0, -0.5], math.log(0.5)), GaussianFlow([0.0, 0.0], 0.0)
    objective = MeanFlow(MeanFlowOptions(name="meanflow", predict="v", fm_ratio=0, power=0))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    for step in range(120):
        draws = noise(128, step)
        x = truth.mean.detach() + truth.log_std.exp().detach() * draws.normal("data", (2,))
        terms, made = objective.loss(net, x[:, :, None, None], None, draws)
        assert (terms["meanflow"].shape, made.r is not None) == ((128,), True)
        optimizer.zero_grad()
        terms["meanflow"].mean().backward()
        optimizer.step()
    assert net.mean.tolist() == pytest.approx([1.0, -0.5], abs=0.1)
    assert net.log_std.exp().item() == pytest.approx(0.5, abs=0.1)
    start = noise(64).normal("image", (2,))
    with torch.no_grad():
        wanted = truth.moved(start, torch.ones(1), torch.zeros(1))
        for steps in (1, 3):
            velocity = lambda z, t, r: objective.velocity(truth, z, t, r, None)  # noqa: E731
            found = SAMPLERS.load("euler")(velocity, start[:, :, None, None], time_grid(steps))
            torch.testing.assert_close(found.flatten(1), wanted)


# A state that is a pair of an image and a vector, diffused together.


def points(labels: Tensor) -> Pair:
    """Return the only data of each class, and of the null class 10."""
    level = labels / 10 - 0.5
    return Pair(level.view(-1, 1, 1, 1).expand(-1, 3, 8, 8), level[:, None].expand(-1, 768))


class PointFlow(nn.Module):
    """The velocity towards the point of each class, v = (z - x) / t."""

    def forward(self, z, t, condition, r=None, taps=()):
        return Output((z - points(condition.labels)) / t[:, None, None, None])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_pair_goes_through_loss_sampler_guidance_and_pipeline(sampler):
    labels = torch.tensor([1, 4, 7])
    condition, objective = ClassCondition(labels, 10), Reg(RegOptions(name="reg", predict="v"))
    # In place of a frozen encoder.
    objective.__dict__["encoder"] = SimpleNamespace(class_token=lambda images: points(labels).vector)
    batch = SimpleNamespace(image=torch.zeros(3, 3, 8, 8, dtype=torch.uint8))
    terms, made = objective.loss(PointFlow(), points(labels).image, condition, noise(3), batch=batch)
    assert terms.keys() == {"flow", "reg"}
    assert all(term.shape == (3,) and term.max() < 1e-8 for term in terms.values())
    torch.testing.assert_close(made.x_pred, made.x)

    def velocity(asked: ClassCondition):
        return lambda z, t, r: objective.velocity(PointFlow(), z, t, r, asked)

    guided = classifier_free(velocity(condition), velocity(condition.null()), 1.5)
    end = SAMPLERS.load(sampler)(guided, objective.initial(noise(3), (3, 8, 8)), time_grid(6))
    wanted = 1.5 * points(labels) - 0.5 * points(condition.null().labels)
    torch.testing.assert_close(end.image, wanted.image, atol=1e-5, rtol=0)
    torch.testing.assert_close(end.vector, wanted.vector, atol=1e-5, rtol=0)

    solver = (f"sampler.name={sampler}", "sampler.num_steps=6", "sampler.shift=1")
    config = tiny(1, *solver, "guidance.scale=1.5", "guidance.interval=[0, 1]").config
    components = replace(build_components(config, "cpu", "float32"), objective=objective)
    pipeline = ImagePipeline(PointFlow(), components, config)
    images = pipeline(condition, noise(3))
    assert images.shape == (3, 8, 8, 3)
    shown = (255 * (wanted.image[:, 0, 0, 0] + 1) / 2).tolist()
    assert images.reshape(3, -1).mean(1).tolist() == pytest.approx(shown, abs=1)


# Extra losses with taps, weights of their own, and frozen networks.


class Projected(ExtraLoss):
    """Squared distance between a learned projection of an early layer and the mean colour of its image."""

    taps = ("encoder.1",)

    def __init__(self, options, components):
        super().__init__(options, components)
        self.map = nn.Linear(components.derived.shape.encoder_hidden_size, 3)

    def forward(self, p):
        target = p.x.mean((2, 3))[:, None]
        return {"projected": (self.map(p.features["encoder.1"]) - target).square().mean((1, 2))}


class Perceptual(ExtraLoss):
    """Distance of frozen features between data and its estimate, where noise leaves enough to see (t < 0.7)."""

    digest = "sha256 of the frozen weights"

    def __init__(self, options, components):
        super().__init__(options, components)
        self.frozen = nn.Conv2d(3, 5, 3).requires_grad_(False)

    def forward(self, p):
        gap = (self.frozen(p.x_pred) - self.frozen(p.x)).square().mean((1, 2, 3))
        return {"perceptual": torch.where(p.t < 0.7, gap, 0.0)}


@pytest.fixture
def setting(monkeypatch):
    """A function: config, components and a lively network of two encoder blocks for some extra losses."""
    monkeypatch.setitem(LOSSES._rows, "projected", LossSpec(title="", options=LossOptions, load="x:y"))
    monkeypatch.setitem(LOSSES._rows, "perceptual", LossSpec(title="", options=LossOptions, load="x:y"))
    kinds = {"projected": Projected, "perceptual": Perceptual}
    monkeypatch.setattr(LOSSES, "load", kinds.__getitem__)

    def create(**weights: float):
        config = tiny(1, "model.encoder_depth=2").config
        config = config.model_copy(update={"losses": {name: {"weight": weight} for name, weight in weights.items()}})
        components = build_components(config, "cpu", "float32")
        torch.manual_seed(0)
        net = build_network(components)
        for parameter in net.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape)
        return config, components, net

    return create


IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))
CLASSES = ClassCondition(torch.arange(4), 10)


def test_an_extra_loss_has_taps_and_weights_of_its_own(setting):
    config, components, net = setting(projected=2.0)
    losses = build_losses(config, components, net)
    again = build_losses(config, components, net)
    (loss,) = losses.values()
    assert [name for name, _ in loss.named_parameters()] == ["map.weight", "map.bias"]
    assert torch.equal(loss.map.weight, again["projected"].map.weight), "initial weights are those of the seed"
    terms = weighted_terms(components.objective, losses, net, IMAGES, CLASSES, noise(4))
    assert terms.keys() == {"flow", "projected"}
    _, made = components.objective.loss(net, IMAGES, CLASSES, noise(4), ("encoder.1",))
    assert made.features.keys() == {"encoder.1"}
    assert made.features["encoder.1"].shape == (4, 16, 16)
    torch.testing.assert_close(terms["projected"], 2.0 * loss(made)["projected"])
    terms["projected"].sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in loss.parameters())
    assert net.encoder[0].attn.qkv.weight.grad.abs().sum() > 0
    assert net.encoder[1].attn.qkv.weight.grad is None


def test_every_tap_passes_gradients_on(setting):
    net = setting()[2]
    features = net(IMAGES, torch.full((4,), 0.5), CLASSES, taps=net.shape.taps).features
    assert all(feature.requires_grad for feature in features.values())
    features["time"].sum().backward()
    assert net.time.mlp[0].weight.grad.abs().sum() > 0


def test_taps_leave_the_prediction_as_it_is_and_are_checked(setting, monkeypatch):
    config, components, net = setting(projected=1.0)
    with torch.no_grad():
        plain = net(IMAGES, torch.full((4,), 0.3), CLASSES)
        tapped = net(IMAGES, torch.full((4,), 0.3), CLASSES, taps=net.shape.taps)
    assert plain.features == {}
    assert torch.equal(plain.pred, tapped.pred)
    assert tuple(tapped.features) == net.shape.taps
    assert torch.equal(tapped.features["encoder"], tapped.features["encoder.2"])
    sizes = {name: tuple(value.shape) for name, value in tapped.features.items()}
    assert sizes["time"] == (4, 16)
    assert {sizes[f"encoder.{depth}"] for depth in (1, 2)} == {(4, 16, 16)}
    assert sizes["decoder.1"] == (4, 16, 24)
    with pytest.raises(ValueError, match=r"no tap encoder\.3; it has time, encoder\.1, encoder\.2, encoder,"):
        net(IMAGES, torch.full((4,), 0.3), CLASSES, taps=("encoder.3",))
    monkeypatch.setattr(Projected, "taps", ("encoder.3",))
    with pytest.raises(ConfigError, match=r"extra loss 'projected' reads 'encoder\.3', and the network has time, "):
        build_losses(config, components, net)


def test_a_loss_may_need_the_estimate_the_time_and_a_frozen_network(setting):
    config, components, net = setting(perceptual=1.0)
    losses = build_losses(config, components, net)
    (loss,) = losses.values()
    assert loss.digest
    _, made = components.objective.loss(net, IMAGES, CLASSES, noise(4))
    torch.testing.assert_close(made.x_pred, made.z - made.t[:, None, None, None] * made.pred)
    made = replace(made, t=torch.tensor([0.1, 0.69, 0.7, 0.95]))
    terms = loss(made)["perceptual"]
    assert (terms > 0).tolist() == [True, True, False, False]
    terms.sum().backward()
    assert net.encoder[0].attn.qkv.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in loss.parameters())


def test_two_losses_may_not_share_the_name_of_a_term(setting):
    config, components, net = setting(projected=1.0)
    loss = build_losses(config, components, net)["projected"]
    both = {"projected": loss, "other": loss}
    with pytest.raises(ValueError, match="'other' names a term 'projected'"):
        weighted_terms(components.objective, both, net, IMAGES, CLASSES, noise(4))


# Another head of the network.


class MeanColour(Head):
    """The colour of an image, from the tokens after the first block."""

    taps = ("encoder.1",)

    def __init__(self, shape):
        super().__init__()
        self.map = nn.Linear(shape.encoder_hidden_size, 3)

    def forward(self, features):
        return self.map(features["encoder.1"].mean(1))


@dataclass(frozen=True)
class WithColour(Flow):
    """Flow that also learns the colour."""

    def heads(self, shape):
        return {"colour": MeanColour(shape)}

    def loss(self, net, x, condition, noise, taps=(), batch=None):
        terms, made = super().loss(net, x, condition, noise, (*taps, "colour"), batch)
        return {**terms, "colour": (made.features["colour"] - x.mean((2, 3))).square().mean(1)}, made


def test_a_head_is_trained_and_stored_with_the_network_and_read_by_its_tap(setting):
    _, components, _ = setting()
    flow = components.objective
    objective = WithColour(flow.options, flow.mean, flow.std, flow.shift)
    net = build_network(replace(components, objective=objective))
    names = {"heads.colour.map.weight", "heads.colour.map.bias"}
    assert names < net.state_dict().keys()
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    terms, made = objective.loss(net, IMAGES, CLASSES, noise(4), ("encoder",))
    assert made.features.keys() == {"encoder", "colour"}
    terms["colour"].sum().backward()
    gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
    assert all(gradients[name].abs().sum() > 0 for name in names)
    assert gradients["encoder.0.attn.qkv.weight"].abs().sum() > 0
    assert gradients["encoder.1.attn.qkv.weight"] is None


# A grid that is not square.


class Wide(Latent):
    """Images of 8x8 pixels as latents of 4x16: two rows side by side."""

    def encode(self, images: Tensor) -> Tensor:
        return 2 * images.reshape(len(images), 3, 4, 16) - 1

    def decode(self, latents: Tensor) -> Tensor:
        return (latents.reshape(len(latents), 3, 8, 8) + 1) / 2


@pytest.fixture
def wide(monkeypatch):
    spec = LatentSpec(name="wide", title="", load="x:y", channels=3, stride=1, grid=(4, 16), patch_size=2)
    monkeypatch.setitem(LATENTS._rows, "wide", spec)
    config = tiny(1, "latent.name=wide", "time.shift=auto").config
    return config, build_components(config, "cpu", "float32", latent=Wide(spec, "cpu"))


def test_a_grid_need_not_be_square(wide):
    config, components = wide
    shape = components.derived.shape
    assert (shape.latent_shape, shape.grid, shape.num_image_tokens) == ((3, 4, 16), (2, 8), 16)
    assert components.derived.train_shift == pytest.approx(math.sqrt(3 * 4 * 16 / 4096))
    torch.manual_seed(0)
    net = build_network(components).eval()
    # Tokens run row by row: number 8 is the first of the second row.
    angles = rotary_angles(2, 8, 8)
    torch.testing.assert_close(net.encoder_rotary[0, :, ::2], angles.cos())
    assert angles[8].tolist() == pytest.approx([1.0, 0.01, 0.0, 0.0])
    terms = weighted_terms(components.objective, {}, net, components.latent.encode(IMAGES), CLASSES, noise(4))
    terms["flow"].mean().backward()
    assert net.final.linear.weight.grad.abs().sum() > 0
    made = ImagePipeline(net, components, config)
    images = made.in_batches(components.conditioner.parse_specs("0-3", []), 0, 2)
    # At the start the velocity is 0, so the images are the noise itself.
    start = components.latent.decode(sampling_noise(0, range(4)).normal("image", (3, 4, 16))).clamp(0, 1)
    wanted = (255 * start.permute(0, 2, 3, 1)).numpy()
    assert np.abs(images - wanted).max() <= 1


def test_patches_of_a_grid_that_is_not_square_return_to_their_place(wide):
    shape = wide[1].derived.shape
    z = torch.arange(3 * 4 * 16.0).view(1, 3, 4, 16)
    tokens = z.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 4, 5, 1).reshape(1, 16, 12)
    assert torch.equal(unpatchify(tokens, shape.latent_shape, 2), z)


def test_the_network_tells_the_columns_of_a_wide_grid_apart(wide):
    """Whatever stands in one patch changes the prediction there most, in encoder and decoder alike."""
    components = wide[1]
    torch.manual_seed(0)
    net: DDT = build_network(components)
    for parameter in net.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    z = torch.randn(1, 3, 4, 16)
    changed = z.clone()
    changed[..., 2:4, 10:12] += 1.0
    label = ClassCondition(torch.tensor([3]), 10)
    with torch.no_grad():
        gap = net(changed, torch.tensor([0.5]), label).pred - net(z, torch.tensor([0.5]), label).pred
    patches = gap.abs().sum(1).view(2, 2, 8, 2).sum((1, 3))
    assert patches.argmax().item() == 8 + 5
