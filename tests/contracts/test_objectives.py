"""What every objective promises: what training learns is what sampling follows."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from nanogen.model.condition import ClassCondition
from nanogen.model.dit import Output
from nanogen.objectives import OBJECTIVES
from nanogen.pair import Pair
from nanogen.rng import PositionalNoise

# Settings beside the name; an objective that is not listed is made from its name alone.
BOTH = ({"predict": "v"}, {"predict": "x"})
EXAMPLES = {
    "flow": BOTH,
    "reg": BOTH,
    # Unweighted, so that the loss is what its gradient belongs to.
    "meanflow": (*({**one, "fm_ratio": 1, "power": 0} for one in BOTH), {"predict": "v", "fm_ratio": 0, "power": 0}),
}
NUM, SHAPE = 6, (2, 3, 3)


def made():
    for name in OBJECTIVES:
        for options in EXAMPLES.get(name, ({},)):
            yield pytest.param((name, options), id="-".join([name, *map(str, options.values())]))


class Constant:
    """Stands for the frozen encoder of an objective."""

    def __init__(self, spec, device) -> None:
        self.width = spec.channels

    def class_token(self, images):
        return torch.linspace(-1, 1, self.width).expand(len(images), -1)


@pytest.fixture(params=made())
def objective(request, monkeypatch):
    name, options = request.param
    monkeypatch.setattr("nanogen.objectives.reg.Encoder", Constant)
    try:
        settings = OBJECTIVES[name].options.model_validate({"name": name, **options})
    except ValidationError as error:
        pytest.fail(f"objective '{name}' needs an entry in EXAMPLES of this test with its settings: {error}")
    # Times away from 0, where a velocity is well told.
    return OBJECTIVES.load(name)(settings, 0.5, 0.3, 1.0)


def is_pair(objective) -> bool:
    return "vector_width" in OBJECTIVES[objective.options.name].shape(objective.options)


def state(objective, image: torch.Tensor) -> torch.Tensor | Pair:
    """A state of some latents."""
    return Pair(image, torch.zeros(len(image), 768)) if is_pair(objective) else image


class Free(nn.Module):
    """A network whose output is free for each image, and which notes what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.pred, self.vector = nn.Parameter(torch.zeros(NUM, *SHAPE)), nn.Parameter(torch.zeros(NUM, 768))
        self.asked: list[SimpleNamespace] = []

    def forward(self, z, t, condition, r=None, taps=()):
        image = z.image if isinstance(z, Pair) else z
        self.asked.append(SimpleNamespace(z=image.detach(), t=t.detach(), condition=condition))
        num = len(image)
        # It depends on its input, as a derivative along it asks.
        pred = self.pred[:num] + 0 * image
        features = {tap: self.pred.flatten(1) for tap in taps}
        return Output(Pair(pred, self.vector[:num]) if isinstance(z, Pair) else pred, features)


DATA = torch.linspace(-1, 1, NUM * 18).view(NUM, *SHAPE)
LABELS = ClassCondition(torch.arange(NUM), 10)


def loss_of(objective, net, x=DATA, condition=LABELS, seed: int = 0, taps=()):
    batch = SimpleNamespace(image=torch.zeros(len(x), 3, 8, 8, dtype=torch.uint8))
    return objective.loss(net, x, condition, noise_of(seed, len(x)), taps, batch)


def noise_of(seed: int = 0, num: int = NUM) -> PositionalNoise:
    return PositionalNoise(seed, range(num), step=2)


def learned(objective) -> Free:
    """The output that costs least, for the states of one batch."""
    net = Free()
    solver = torch.optim.LBFGS(net.parameters(), max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def cost():
        solver.zero_grad()
        total = sum(term.sum() for term in loss_of(objective, net)[0].values())
        total.backward()
        return total

    solver.step(cost)
    assert cost().item() < 1e-4
    return net


def test_the_velocity_leads_from_data_to_noise(objective):
    """At z = (1 - t) x + t eps it is eps - x, which a network that has learned x and eps tells."""
    net = learned(objective)
    asked = net.asked[-1]
    for index in range(NUM):
        t = asked.t[index].item()
        assert 0.1 < t < 1
        z = asked.z[index : index + 1]
        alone = Free()
        alone.pred.data[:1] = net.pred.data[index : index + 1]
        with torch.no_grad():
            found = objective.velocity(alone, state(objective, z), t, t, ClassCondition(torch.tensor([index]), 10))
        torch.testing.assert_close(objective.latent(found), (z - DATA[index]) / t, rtol=0.02, atol=0.02)
        assert alone.asked[0].t.tolist() == pytest.approx([t])


class Affine(nn.Module):
    """A network that is affine in z, with coefficients that are polynomials of the times: enough for Gaussian data."""

    def __init__(self) -> None:
        super().__init__()
        self.slope, self.offset = nn.Parameter(torch.zeros(6)), nn.Parameter(torch.zeros(6))

    def forward(self, z, t, condition, r=None, taps=()):
        t, r = t - 0.6, torch.zeros_like(t) if r is None else r - 0.6
        basis = torch.stack([torch.ones_like(t), t, t**2, r, r**2, t * r])
        slope, offset = (self.slope @ basis, self.offset @ basis)
        image = z.image if isinstance(z, Pair) else z
        pred = slope[:, None, None, None] * image + offset[:, None, None, None]
        return Output(Pair(pred, 0.0 * z.vector) if isinstance(z, Pair) else pred)


def test_gaussian_data_gives_its_closed_form_velocity(objective):
    """At data N(m, s^2), the network that costs least leads to E[eps - x | z], up to the error of a finite sample."""
    if getattr(objective.options, "fm_ratio", 1) == 0:
        # What it regresses on moves with the network; test_interfaces.py learns it step by step.
        objective = replace(objective, options=objective.options.model_copy(update={"fm_ratio": 1}))
    m, s, num = 0.4, 0.5, 1024
    x = m + s * torch.randn(num, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    labels = ClassCondition(torch.zeros(num, dtype=torch.long), 10)
    net = Affine()
    solver = torch.optim.LBFGS(net.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def cost():
        solver.zero_grad()
        total = sum(term.mean() for term in loss_of(objective, net, x, labels)[0].values())
        total.backward()
        return total

    solver.step(cost)
    z, t = torch.linspace(-1, 1.5, 8).view(2, 1, 2, 2), 0.6
    with torch.no_grad():
        labels = ClassCondition(torch.zeros(2, dtype=torch.long), 10)
        found = objective.latent(objective.velocity(net, state(objective, z), t, t, labels))
    gap, variance = z - (1 - t) * m, ((1 - t) * s) ** 2 + t**2
    wanted = t / variance * gap - (m + (1 - t) * s**2 / variance * gap)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.08)


def test_terms_are_each_images_own_and_reach_the_network(objective):
    net = Free()
    terms, made = loss_of(objective, net, taps=("encoder",))
    assert len(net.asked) == 1
    assert torch.equal(net.asked[0].condition.labels, LABELS.labels)
    assert set(made.features) == {"encoder"}
    for term in terms.values():
        assert (term.shape, term.dtype) == ((NUM,), torch.float32)
        assert term.min() >= 0 or not OBJECTIVES[objective.options.name].non_negative
        found = torch.autograd.grad(term[1], [net.pred, net.vector], retain_graph=True, allow_unused=True)
        gradient = torch.cat([one.flatten(1) for one in found if one is not None], dim=1)
        assert gradient[1].abs().sum() > 0
        assert gradient[[0, *range(2, NUM)]].abs().sum() == 0
    for value in made.logged.values():
        assert (value.shape, value.dtype, value.requires_grad) == ((NUM,), torch.float32, False)


def test_random_numbers_come_from_the_noise(objective):
    before = torch.random.get_rng_state()
    first, again, other = (next(iter(loss_of(objective, Free(), seed=seed)[0].values())) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_velocity_has_the_states_shape_and_keeps_to_its_image(objective):
    net = Free()
    nn.init.normal_(net.pred)
    z = torch.randn(NUM, *SHAPE)
    with torch.no_grad():
        whole = objective.velocity(net, state(objective, z), 0.6, 0.5, LABELS)
        assert type(whole) is type(state(objective, z))
        whole = objective.latent(whole)
        assert (whole.shape, whole.dtype) == (z.shape, z.dtype)
        first = objective.velocity(net, state(objective, z[:2]), 0.6, 0.5, ClassCondition(torch.arange(2), 10))
    torch.testing.assert_close(objective.latent(first), whole[:2])
