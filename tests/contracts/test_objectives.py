"""What every objective promises: what training learns is what sampling follows."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from nanogen.model.condition import ClassCondition
from nanogen.model.dit import Output
from nanogen.objectives import OBJECTIVES
from nanogen.rng import PositionalNoise

# Settings beside the name; an objective that is not listed is made from its name alone.
EXAMPLES = {"flow": ({"predict": "v"}, {"predict": "x"})}
NUM, SHAPE = 6, (2, 3, 3)


def made():
    for name in OBJECTIVES:
        for options in EXAMPLES.get(name, ({},)):
            yield pytest.param((name, options), id="-".join([name, *map(str, options.values())]))


@pytest.fixture(params=made())
def objective(request):
    name, options = request.param
    try:
        settings = OBJECTIVES[name].options.model_validate({"name": name, **options})
    except ValidationError as error:
        pytest.fail(f"objective '{name}' needs an entry in EXAMPLES of this test with its settings: {error}")
    # Times away from 0, where a velocity is well told.
    return OBJECTIVES.load(name)(settings, 0.5, 0.3, 1.0)


class Free(nn.Module):
    """A network whose output is free for each image, and which notes what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.pred = nn.Parameter(torch.zeros(NUM, *SHAPE))
        self.asked: list[SimpleNamespace] = []

    def forward(self, z, t, condition, r=None, taps=()):
        self.asked.append(SimpleNamespace(z=z.detach(), t=t.detach(), condition=condition))
        return Output(self.pred[: len(z)], features={tap: self.pred.flatten(1) for tap in taps})


DATA = torch.linspace(-1, 1, NUM * 18).view(NUM, *SHAPE)
LABELS = ClassCondition(torch.arange(NUM), 10)


def noise_of(seed: int = 0, num: int = NUM) -> PositionalNoise:
    return PositionalNoise(seed, range(num), step=2)


def learned(objective) -> Free:
    """The output that costs least, for the states of one batch."""
    net = Free()
    solver = torch.optim.LBFGS(net.parameters(), max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def cost():
        solver.zero_grad()
        total = sum(term.sum() for term in objective.loss(net, DATA, LABELS, noise_of())[0].values())
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
            found = objective.velocity(alone, z, t, t, ClassCondition(torch.tensor([index]), 10))
        torch.testing.assert_close(found, (z - DATA[index]) / t, rtol=0.02, atol=0.02)
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
        return Output(slope[:, None, None, None] * z + offset[:, None, None, None])


def test_gaussian_data_gives_its_closed_form_velocity(objective):
    """At data N(m, s^2), the network that costs least leads to E[eps - x | z], up to the error of a finite sample."""
    m, s, num = 0.4, 0.5, 1024
    x = m + s * torch.randn(num, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    labels, noise = ClassCondition(torch.zeros(num, dtype=torch.long), 10), noise_of(num=num)
    net = Affine()
    solver = torch.optim.LBFGS(net.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def cost():
        solver.zero_grad()
        total = sum(term.mean() for term in objective.loss(net, x, labels, noise)[0].values())
        total.backward()
        return total

    solver.step(cost)
    z, t = torch.linspace(-1, 1.5, 8).view(2, 1, 2, 2), 0.6
    with torch.no_grad():
        found = objective.velocity(net, z, t, t, ClassCondition(torch.zeros(2, dtype=torch.long), 10))
    gap, variance = z - (1 - t) * m, ((1 - t) * s) ** 2 + t**2
    wanted = t / variance * gap - (m + (1 - t) * s**2 / variance * gap)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.08)


def test_terms_are_each_images_own_and_reach_the_network(objective):
    net = Free()
    terms, made = objective.loss(net, DATA, LABELS, noise_of(), taps=("encoder",))
    assert len(net.asked) == 1
    assert torch.equal(net.asked[0].condition.labels, LABELS.labels)
    assert set(made.features) == {"encoder"}
    for term in terms.values():
        assert (term.shape, term.dtype) == ((NUM,), torch.float32)
        assert term.min() >= 0 or not OBJECTIVES[objective.options.name].non_negative
        (gradient,) = torch.autograd.grad(term[1], net.pred, retain_graph=True)
        assert gradient[1].abs().sum() > 0
        assert gradient[[0, *range(2, NUM)]].abs().sum() == 0


def test_random_numbers_come_from_the_noise(objective):
    before = torch.random.get_rng_state()
    first, again, other = (
        next(iter(objective.loss(Free(), DATA, LABELS, noise_of(seed))[0].values())) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_velocity_has_the_states_shape_and_keeps_to_its_image(objective):
    net = Free()
    nn.init.normal_(net.pred)
    z = torch.randn(NUM, *SHAPE)
    with torch.no_grad():
        whole = objective.velocity(net, z, 0.6, 0.5, LABELS)
        assert (whole.shape, whole.dtype) == (z.shape, z.dtype)
        first = objective.velocity(net, z[:2], 0.6, 0.5, ClassCondition(torch.arange(2), 10))
    torch.testing.assert_close(first, whole[:2])
