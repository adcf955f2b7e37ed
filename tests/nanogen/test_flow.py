"""Objective, times, samplers and guidance: reference values, closed forms, and an exact two-dimensional problem."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from reference import reference_network, summary, wave
from tiny import tiny

from nanogen.build import build_components
from nanogen.guidance import classifier_free, internal, parts
from nanogen.model.condition import ClassCondition
from nanogen.objectives import FlowOptions, RegOptions
from nanogen.objectives.flow import Flow
from nanogen.objectives.reg import Reg
from nanogen.pair import Pair
from nanogen.pipeline import ImagePipeline
from nanogen.samplers import SAMPLERS, euler, heun, time_grid
from nanogen.times import logit_normal, shift_time, time_shift

X, EPS, TAU = wave(0.13, 0.2, (2, 3, 8, 8)), wave(0.29, 1.1, (2, 3, 8, 8)), torch.tensor([0.02, 0.6])
LABELS = ClassCondition(torch.tensor([1, 4]), 5)


def flow(predict: str, shift: float = 1.0) -> Flow:
    return Flow(FlowOptions(name="flow", predict=predict), shift=shift)


@pytest.mark.parametrize(
    "predict, shift, expected",
    [
        ("v", 1, [3.773679, 4.090374]),
        ("v", 2, [4.153600, 4.501065]),
        ("x", 1, [1757.62439, 10.344010]),
        ("x", 2, [1759.88916, 7.272762]),
    ],
)
def test_reference_losses(predict, shift, expected):
    terms, _ = flow(predict, shift).loss_at(reference_network(), X, LABELS, EPS, TAU)
    assert terms["flow"].tolist() == pytest.approx(expected, rel=1e-4)


def test_reference_loss_with_a_dropped_image():
    dropped = LABELS.dropped(torch.tensor([True, False]))
    terms, _ = flow("v").loss_at(reference_network(), X, dropped, EPS, TAU)
    assert terms["flow"].tolist() == pytest.approx([3.725549, 4.090374], rel=1e-4)


def test_reference_gradient_norms():
    net = reference_network()
    flow("v").loss_at(net, X, LABELS, EPS, TAU)[0]["flow"].mean().backward()
    total = math.sqrt(sum(parameter.grad.square().sum().item() for parameter in net.parameters()))
    assert total == pytest.approx(34.78449, rel=1e-4)
    assert net.time.frequencies.grad.norm().item() == pytest.approx(2.309902, rel=1e-4)


REG = Reg(RegOptions(name="reg", predict="v"))
EARLY = Flow(FlowOptions(name="flow", predict="v", early_depth=1))
C, EPS_C = wave(0.3, 0.4, (2, 6)), wave(0.5, 0.9, (2, 6))


def test_reference_losses_of_a_pair():
    net = reference_network(vector_width=6)
    terms, made = REG.loss_at(net, Pair(X, C), LABELS, Pair(EPS, EPS_C), TAU)
    means = [term.mean().item() for term in terms.values()]
    assert list(terms) == ["flow", "reg"]
    assert means == pytest.approx([4.058383, 0.269254], rel=1e-4)
    # Extra losses see the latent alone.
    assert torch.equal(made.x, X)
    assert made.x_pred.shape == made.pred.shape == X.shape
    torch.stack([term.mean() for term in terms.values()]).sum().backward()
    total = math.sqrt(sum(parameter.grad.square().sum().item() for parameter in net.parameters()))
    assert total == pytest.approx(37.05744, rel=1e-4)


def test_reference_losses_with_an_early_output():
    terms, _ = EARLY.loss_at(reference_network(early_depth=1), X, LABELS, EPS, TAU)
    assert list(terms) == ["flow", "early"]
    means = [term.mean().item() for term in terms.values()]
    assert [sum(means), means[1]] == pytest.approx([10.055167, 6.123141], rel=1e-4)
    light = Flow(FlowOptions(name="flow", predict="v", early_depth=1, early_weight=0.5))
    assert light.loss_at(reference_network(early_depth=1), X, LABELS, EPS, TAU)[0]["early"].mean().item() == (
        pytest.approx(0.5 * 6.123141, rel=1e-4)
    )


def sampled(objective, net, start, *overrides: str) -> list[float]:
    """The final latent of 4 steps, with the guidance of a config."""
    config = tiny(
        1, "guidance.scale=1", "objective.early_depth=1", "sampler.num_steps=4", "sampler.shift=2", *overrides
    ).config
    components = replace(build_components(config, "cpu", "float32"), objective=objective, latent=Kept())
    noise = SimpleNamespace(normal=lambda purpose, shape: start[purpose])
    ImagePipeline(net, components, config)(LABELS, noise)
    return summary(components.latent.state)


class Kept:
    """A decoder that keeps what it is given."""

    def decode(self, latents):
        self.state = latents
        return latents


INTERNAL = ("guidance.internal.scale=1.5", "guidance.internal.interval=[0.1, 1]")
CLASSIFIER_FREE = ("guidance.scale=1.8", "guidance.interval=[0, 0.9]")


@pytest.mark.parametrize(
    "overrides, expected",
    [
        ((), [-0.168642, 2.183535, -1.95038, 2.49189, -1.64367, 2.70576, -0.53508]),
        (CLASSIFIER_FREE, [-0.179267, 2.151499, -1.79268, 2.52907, -1.55092, 2.72966, -0.37010]),
        (INTERNAL, [-0.293535, 3.932297, -1.01673, 5.14799, -0.99057, 5.26163, 1.16325]),
        ((*INTERNAL, *CLASSIFIER_FREE), [-0.307901, 3.924563, -0.79874, 5.17890, -0.91594, 5.28146, 1.40489]),
        (
            (*INTERNAL, *CLASSIFIER_FREE, "guidance.internal.null_scale=1.0"),
            [-0.484964, 5.401092, -0.40382, 7.80907, -0.38414, 7.59781, 2.83694],
        ),
    ],
)
def test_reference_samplers_with_an_early_output(overrides, expected):
    start = {"image": wave(0.17, 0.6, (2, 3, 8, 8))}
    assert sampled(EARLY, reference_network(early_depth=1), start, *overrides) == pytest.approx(expected, rel=1e-4)


def test_reference_sampler_of_a_pair():
    start = {"image": wave(0.17, 0.6, (2, 3, 8, 8)), "vector": wave(0.3, 0.4, (2, 6))}
    found = sampled(REG, reference_network(vector_width=6), start, *CLASSIFIER_FREE)
    expected = [-0.197437, 2.185512, -1.91642, 2.40078, -1.60164, 2.56186, -0.43851]
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_vector_is_guided_by_the_condition_and_never_by_the_early_output():
    net, z = reference_network(vector_width=6, early_depth=1), Pair(X, C)
    with torch.no_grad():
        v, early = REG.velocities(net, z, 0.5, 0.4, LABELS)
        plain = REG.velocity(net, z, 0.5, 0.4, LABELS)
        guided = internal(lambda *at: v, lambda *at: early, 1.5)(z, 0.5, 0.4)
    assert torch.equal(v.image, plain.image)
    assert torch.equal(guided.vector, plain.vector)
    torch.testing.assert_close(guided.image, early.image + 1.5 * (v.image - early.image))


def test_both_outputs_come_from_one_evaluation():
    calls = []
    full, early = parts(lambda z, t, r: calls.append(t) or (z, 2 * z))
    euler(internal(full, early, 1.5, (0.3, 0.6)), torch.ones(1), time_grid(10))
    assert len(calls) == 10


@pytest.mark.parametrize(
    "predict, scale, expected",
    [
        ("v", 1.0, [-0.168642, 2.183535, -1.95038, 2.49189, -1.64367, 2.70576, -0.53508]),
        ("v", 1.8, [-0.179267, 2.151499, -1.79268, 2.52907, -1.55092, 2.72966, -0.37010]),
        ("x", 1.8, [0.313907, 1.057500, 1.10357, -0.60974, 1.12529, -0.25816, -0.73781]),
    ],
)
def test_reference_samplers(predict, scale, expected):
    net, objective = reference_network(), flow(predict)
    velocity = classifier_free(
        lambda z, t, r: objective.velocity(net, z, t, r, LABELS),
        lambda z, t, r: objective.velocity(net, z, t, r, LABELS.null()),
        scale,
        (0.0, 0.9),
    )
    with torch.no_grad():
        z = euler(velocity, wave(0.17, 0.6, (2, 3, 8, 8)), time_grid(4, 2.0))
    assert summary(z) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "shape, shift",
    [
        ((4, 32, 32), 1),
        ((32, 16, 16), 1.414214),
        ((128, 16, 16), 2.828427),
        ((3, 256, 256), 6.928203),
        ((3, 8, 8), 0.2165064),
    ],
)
def test_time_shift_follows_the_latent(shape, shift):
    assert time_shift(shape) == pytest.approx(shift, rel=1e-6)


@pytest.mark.parametrize(
    "shift, first, middle, last, guided",
    [(1, 0.98, 0.5, 0.02, 45), (2, 0.989899, 0.666667, 0.039216, 40), (6.928203, 0.997063, 0.873868, 0.123877, 28)],
)
def test_grid_values_and_guided_steps(shift, first, middle, last, guided):
    times = time_grid(50, shift)
    assert [times[index].item() for index in (0, 1, 25, 49, 50)] == pytest.approx([1, first, middle, last, 0], abs=1e-6)
    seen = []
    weak = classifier_free(lambda z, t, r: 0.0, lambda z, t, r: seen.append(t) or 0.0, 2.0, (0.0, 0.9))
    euler(weak, 0.0, times)
    # Both ends of the interval are inside: the grid point 0.9 of the unshifted grid counts.
    assert len(seen) == guided


def exact_time(k: int, steps: int, shift: Fraction) -> Fraction:
    u = Fraction(k, steps)
    return shift * u / (1 + (shift - 1) * u)


@pytest.mark.parametrize("shift", [Fraction(1), Fraction(2), Fraction(4), Fraction(1, 3), Fraction(48**0.5)])
def test_both_ends_of_a_guidance_interval_hold_on_every_grid(shift):
    """An end written as k/S or in tenths, before or after the shift, is inside wherever the grid has that point."""
    asked = []

    def guided(times, interval):
        asked.clear()
        velocity = classifier_free(lambda z, t, r: 0.0, lambda z, t, r: asked.append(t) or 0.0, 2.0, interval)
        for t in times:
            velocity(0.0, t, 0.0)
        return len(asked)

    for steps in range(1, 101):
        exact = [exact_time(k, steps, shift) for k in range(steps, -1, -1)]
        times = time_grid(steps, float(shift)).tolist()
        # Rounded once: what a person writes down for a time rounds to the same float32.
        assert times == [np.float32(float(t)) for t in exact]
        for place, end in enumerate(map(float, exact)):
            near = times[max(0, place - 1) : place + 2]
            assert guided(near, (end, end)) == 1
            assert guided(near, (end, 1.0)) == min(place, 1) + 1
            assert guided(near, (0.0, end)) == min(steps - place, 1) + 1
        for tenth in range(11):
            end = Fraction(tenth, 10)
            assert guided(times, (0.0, tenth / 10)) == sum(t <= end for t in exact)
            assert guided(times, (tenth / 10, 1.0)) == sum(t >= end for t in exact)


def test_the_grid_is_the_published_one_to_the_last_place():
    for steps in range(1, 101):
        published = 1 - torch.arange(steps + 1, dtype=torch.float32) / steps
        assert (time_grid(steps) - published).abs().max() <= 2**-24


def test_times_and_ends_are_compared_as_float32():
    asked = []
    velocity = classifier_free(lambda z, t, r: 0.0, lambda z, t, r: asked.append(t) or 0.0, 2.0, (0.3, 0.9))
    for t in (0.3, 0.9, float(np.float32(0.3)), float(np.float32(0.9))):
        velocity(0.0, t, 0.0)
    assert len(asked) == 4


def test_shift_has_its_fixed_points_and_order():
    t = torch.linspace(0, 1, 11)
    for shift in (0.2, 1.0, 3.0):
        moved = shift_time(t, shift)
        assert (moved[0], moved[-1]) == (0, 1)
        assert (moved.diff() > 0).all()
    assert shift_time(torch.tensor(0.5), 2.828427).item() == pytest.approx(0.738796, abs=1e-6)
    # A shift moves the logit by its logarithm.
    assert torch.logit(shift_time(t[1:-1], 3.0)).tolist() == pytest.approx(
        (torch.logit(t[1:-1]) + math.log(3)).tolist(), abs=1e-5
    )
    for bad in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="positive"):
            shift_time(t, bad)


def test_logit_normal_has_its_moments():
    t = logit_normal(torch.randn(100_000, generator=torch.Generator().manual_seed(0)), -0.4, 0.8)
    logits = torch.logit(t)
    assert ((t > 0) & (t < 1)).all()
    assert logits.mean().item() == pytest.approx(-0.4, abs=0.01)
    assert logits.std().item() == pytest.approx(0.8, abs=0.01)


# A mixture of two Gaussians in the plane: its velocity field is known exactly (style 2.12).
MEANS, DEVIATION = torch.tensor([[-2.0, 0.5], [1.5, -1.0]], dtype=torch.float64), 0.3


def exact_velocity(z: torch.Tensor, t: float, weights: tuple[float, float] = (0.5, 0.5)) -> torch.Tensor:
    """E[eps - x | z] for z = (1 - t) x + t eps with x from the mixture."""
    variance = (1 - t) ** 2 * DEVIATION**2 + t**2
    offsets = z[:, None] - (1 - t) * MEANS
    log = torch.tensor(weights, dtype=z.dtype).log() - offsets.square().sum(-1) / (2 * variance)
    responsibility = log.softmax(-1)[..., None]
    x = MEANS + (1 - t) * DEVIATION**2 / variance * offsets
    eps = t / variance * offsets
    return (responsibility * (eps - x)).sum(1)


def noise(n: int) -> torch.Tensor:
    return torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_reach_the_mixture(sampler):
    z = SAMPLERS.load(sampler)(lambda z, t, r: exact_velocity(z, t), noise(4000), time_grid(200))
    left = z[:, 0] < -0.25
    assert left.double().mean().item() == pytest.approx(0.5, abs=0.03)
    for side, mean in ((left, MEANS[0]), (~left, MEANS[1])):
        assert z[side].mean(0).tolist() == pytest.approx(mean.tolist(), abs=0.03)
        assert z[side].std(0).tolist() == pytest.approx([DEVIATION] * 2, abs=0.03)


def test_samplers_have_their_order():
    """Halving the step halves Euler's error and quarters Heun's."""
    start = noise(200)
    exact = heun(lambda z, t, r: exact_velocity(z, t), start, time_grid(2000))

    def error(sampler, steps):
        return (sampler(lambda z, t, r: exact_velocity(z, t), start, time_grid(steps)) - exact).norm(dim=1).median()

    assert (error(euler, 40) / error(euler, 80)).item() == pytest.approx(2, rel=0.15)
    assert (error(heun, 40) / error(heun, 80)).item() == pytest.approx(4, rel=0.25)


def test_a_network_that_is_exact_has_the_irreducible_loss():
    """v- and x-prediction of the exact posterior give the same loss, and no other prediction gives less."""
    torch.manual_seed(0)
    n = 20_000
    component = torch.arange(n) % 2
    x = (MEANS[component] + DEVIATION * torch.randn(n, 2, dtype=torch.float64)).view(n, 2, 1, 1)
    eps, tau = torch.randn_like(x), torch.full((n,), 0.4, dtype=torch.float64)

    class Exact:
        def __init__(self, kind, scale=1.0):
            self.kind, self.scale = kind, scale

        def __call__(self, z, t, condition, taps=()):
            v = exact_velocity(z.flatten(1), t[0].item()).view_as(z) * self.scale
            return type("Out", (), {"pred": v if self.kind == "v" else z - t[0] * v, "features": {}})

    def mean_loss(predict, scale=1.0):
        return flow(predict).loss_at(Exact(predict, scale), x, None, eps, tau)[0]["flow"].mean().item()

    assert mean_loss("v") == pytest.approx(mean_loss("x"), rel=1e-9)
    assert mean_loss("v") < min(mean_loss("v", 0.9), mean_loss("v", 1.1))


def test_guidance_moves_towards_the_class():
    """Conditional on one component, null on both: guidance pushes away from the other component."""

    def sample(scale, interval):
        velocity = classifier_free(
            lambda z, t, r: exact_velocity(z, t, (1.0, 1e-12)),
            lambda z, t, r: exact_velocity(z, t),
            scale,
            interval,
        )
        return euler(velocity, noise(500), time_grid(100))

    plain = sample(1.0, (0.0, 1.0))
    assert plain.mean(0).tolist() == pytest.approx(MEANS[0].tolist(), abs=0.05)
    assert sample(3.0, (0.0, 1.0)).mean(0)[0] < plain.mean(0)[0] - 0.1
    # Outside the interval guidance does nothing at all.
    times = time_grid(100).tolist()
    untouched = (times[50] + 1e-4, times[49] - 1e-4)
    torch.testing.assert_close(sample(3.0, untouched), plain, rtol=0, atol=0)


def test_guidance_costs_nothing_where_it_is_off():
    calls = []

    def null(z, t, r):
        calls.append(t)
        return z

    euler(classifier_free(lambda z, t, r: z, null, 1.0, (0.0, 1.0)), torch.zeros(1), time_grid(10))
    assert calls == []
    euler(internal(lambda z, t, r: z, null, 1.5, (0.3, 0.6)), torch.zeros(1), time_grid(10))
    assert calls == pytest.approx([0.6, 0.5, 0.4, 0.3])


@pytest.mark.parametrize("scale, interval", [(0.5, (0, 1)), (2, (0.5, 0.2)), (2, (-0.1, 1)), (float("nan"), (0, 1))])
def test_impossible_guidance_is_refused(scale, interval):
    for guide in (classifier_free, internal):
        with pytest.raises(ValueError, match="guidance"):
            guide(lambda z, t, r: z, lambda z, t, r: z, scale, interval)
