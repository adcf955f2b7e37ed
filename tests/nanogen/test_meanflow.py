"""MeanFlow: reference losses, gradients and samples; what it needs of autocast, accumulation and several processes."""

from __future__ import annotations

import math

import pytest
import torch
from reference import reference_network, summary, wave

from nanogen.model.condition import ClassCondition
from nanogen.objectives import MeanFlowOptions
from nanogen.objectives.meanflow import MeanFlow
from nanogen.samplers import euler, time_grid

X, EPS = wave(0.13, 0.2, (2, 3, 8, 8)), wave(0.29, 1.1, (2, 3, 8, 8))
LABELS = ClassCondition(torch.tensor([1, 4]), 5)
FM, MF = torch.tensor([0.02, 0.6]), torch.tensor([[0.3, 0.5], [0.6, 0.1]])


def mean_flow(predict: str = "v", **options) -> MeanFlow:
    return MeanFlow(MeanFlowOptions(name="meanflow", predict=predict, **options))


def gradient_norm(net: torch.nn.Module) -> float:
    return math.sqrt(sum(parameter.grad.square().sum().item() for parameter in net.parameters()))


REFERENCE = [  # times, prediction, kappa, omega, raw loss, norm of dudt, gradient norm (methods 13)
    (FM, "v", 0, 1, [2337.90698, 2688.71655], None, 11.349064),
    (MF, "v", 0, 1, [5695.63037, 8639.87500], [239.09560, 115.03624], 6.399043),
    (FM, "v", 0.5, 1, [2303.52222, 2648.46631], None, 11.246502),
    (MF, "v", 0.5, 1, [5948.35938, 8022.05957], [245.98260, 107.16721], 6.522926),
    (FM, "v", 0, 2, [9214.08887, 10593.86523], None, None),
    (MF, "v", 0, 2, [21423.03711, 20481.97266], [466.30524, 221.13226], None),
    (FM, "x", 0.5, 1, [920631.625, 6137.34229], None, None),
    (MF, "x", 0.5, 1, [12934.22363, 12928.98535], [456.90894, 223.77220], None),
]


@pytest.mark.parametrize("tau, predict, kappa, omega, raw, dudt, gradient", REFERENCE)
def test_reference_losses(tau, predict, kappa, omega, raw, dudt, gradient):
    net = reference_network(num_times=2)
    terms, made = mean_flow(predict, kappa=kappa, omega=omega).loss_at(net, X, LABELS, EPS, tau)
    assert made.logged["meanflow_raw"].tolist() == pytest.approx(raw, rel=1e-4)
    assert ("dudt_norm" in made.logged) == (dudt is not None)
    if dudt is not None:
        assert made.logged["dudt_norm"].tolist() == pytest.approx(dudt, rel=1e-4)
    assert terms["meanflow"].tolist() == pytest.approx([1, 1], abs=1e-4)
    if gradient is not None:
        terms["meanflow"].mean().backward()
        assert gradient_norm(net) == pytest.approx(gradient, rel=1e-4)


@pytest.mark.parametrize(
    "steps, expected",
    [
        (1, [1.333518, 3.556196, 0.88197, -0.82762, 1.26425, -0.16913, 5.28330]),
        (2, [0.880648, 2.822274, -1.25375, -0.03655, -0.63469, 0.06890, 6.16850]),
    ],
)
def test_reference_samples(steps, expected):
    net, objective = reference_network(num_times=2), mean_flow()
    with torch.no_grad():
        velocity = lambda z, t, r: objective.velocity(net, z, t, r, LABELS)  # noqa: E731
        found = euler(velocity, wave(0.17, 0.6, (2, 3, 8, 8)), time_grid(steps))
    assert summary(found) == pytest.approx(expected, rel=1e-4, abs=1e-5)
