"""MeanFlow: reference losses, gradients and samples; what it needs of autocast, accumulation and several processes."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import pytest
import torch
from reference import reference_network, summary, wave
from safetensors.torch import load_file
from tiny import pair, tiny

from diffusionbench.errors import ConfigError
from nanogen.build import build_components
from nanogen.config import changed, compose
from nanogen.data.order import batches
from nanogen.model.condition import ClassCondition, TextCondition
from nanogen.objectives import MeanFlowOptions
from nanogen.objectives.meanflow import MeanFlow
from nanogen.rng import PositionalNoise
from nanogen.samplers import euler, time_grid
from nanogen.train import build, flow_updates, open_data, train

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


# What is trained in.


@pytest.mark.parametrize("tau", [FM, MF])
def test_guidance_leaves_out_dropped_images_and_times_outside_its_interval(tau):
    net = reference_network(num_times=2)

    def raw(condition=LABELS, **options) -> list[float]:
        with torch.no_grad():
            return mean_flow(**options).loss_at(net, X, condition, EPS, tau)[1].logged["meanflow_raw"].tolist()

    for options in ({"kappa": 0.5}, {"omega": 2.0}, {"kappa": 0.3, "omega": 0.5}):
        plain, guided = raw(), raw(**options)
        assert all(abs(one / other - 1) > 1e-3 for one, other in zip(plain, guided, strict=True))
        dropped = LABELS.dropped(torch.tensor([True, False]))
        assert raw(dropped, **options) == pytest.approx([raw(dropped)[0], guided[1]], rel=1e-5)
        # Both ends are inside.
        late = tau.view(2, -1).amax(1)[1].item()
        assert raw(**options, interval=(late, 1)) == pytest.approx([plain[0], guided[1]], rel=1e-5)
        assert raw(**options, interval=(0, late)) == pytest.approx(guided, rel=1e-5)


def test_a_condition_knows_where_it_is_null():
    drop = torch.tensor([True, False])
    masked = TextCondition(torch.zeros(2, 3, 4), torch.tensor([[1, 0, 0], [1, 1, 0]], dtype=torch.bool))
    for condition in (LABELS, TextCondition(torch.zeros(2, 3, 4), None), masked):
        assert condition.is_null().tolist() == [False, False]
        assert condition.dropped(drop).is_null().tolist() == [True, False]
        assert condition.null().is_null().tolist() == [True, True]


def test_steps_are_of_one_kind_by_seed_and_step_alone():
    def kinds(seed: int, indices=(0,)) -> list[float]:
        return [PositionalNoise(seed, indices, step=step).shared("kind") for step in range(400)]

    assert kinds(1) == kinds(1, (5, 9)) != kinds(2)
    for ratio in (0.0, 0.25, 1.0):
        net = reference_network(num_times=2)
        objective, made = mean_flow(fm_ratio=ratio), []
        for step in range(40):
            with torch.no_grad():
                made.append(objective.loss(net, X, LABELS, PositionalNoise(1, (0, 1), step=step))[1])
        for step, one in enumerate(made):
            is_flow = kinds(1)[step] < ratio
            assert torch.equal(one.t, one.r) == is_flow == ("dudt_norm" not in one.logged)
            assert is_flow or (one.r < one.t).all()
    assert sum(kind < 0.75 for kind in kinds(1)) == pytest.approx(300, abs=30)


@pytest.mark.parametrize("tau", [FM, MF])
def test_an_early_output_learns_the_unguided_velocity(tau):
    net = reference_network(num_times=2, early_depth=1)
    terms, made = mean_flow(kappa=0.5, early_depth=1).loss_at(net, X, LABELS, EPS, tau)
    t_ = made.t[:, None, None, None]
    l = (made.features["early"] - (made.z - X) / t_.clamp(min=0.05)).square().flatten(1).sum(1)  # noqa: E741
    torch.testing.assert_close(terms["early"], l / (l.detach() + 0.01))
    terms["early"].sum().backward()
    assert net.heads["early"].final.linear.weight.grad.abs().sum() > 0


# Autocast, accumulation, several processes.


@pytest.mark.parametrize("tau, kappa", list(product([FM, MF], [0, 0.5])))
def test_every_parameter_gets_a_gradient_under_autocast(tau, kappa):
    """Copies of the weights that a pass without gradient left behind would train norms and tables alone."""
    norms = []
    for precision in (torch.float32, torch.bfloat16):
        net = reference_network(num_times=2)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
            terms, made = mean_flow(kappa=kappa).loss_at(net, X, LABELS, EPS, tau, taps=("encoder",))
            assert made.features["encoder"].requires_grad
        terms["meanflow"].mean().backward()
        moved = [name for name, one in net.named_parameters() if one.grad is not None and one.grad.abs().sum() > 0]
        # An interval of 0 turns no frequency.
        still = {"time.frequencies"} if tau is FM else set()
        assert {name for name, _ in net.named_parameters()} - set(moved) == still
        norms.append(gradient_norm(net))
    assert norms[1] == pytest.approx(norms[0], rel=0.1)


def trained(*overrides: str):
    """Weights and values of two updates, both with a derivative."""
    options = ("objective.name=meanflow", "objective.fm_ratio=0", "objective.kappa=0.5", "optim.lr=1e-3")
    settings = ("guidance.scale=1", "sampler.num_steps=1", *options, *overrides)
    data, config = open_data(tiny(2, *settings).config)
    parts = build_components(config, "cpu", "float32")
    state = build(config, parts, len(data))
    size, cut = config.train.batch_size, config.train.accumulation
    values = list(flow_updates(state, parts, config, batches(data, seed=0, batch_size=size, accumulation=cut), 2))
    return dict(state.module.net.named_parameters()), values, state


def test_micro_batches_train_as_the_whole_batch():
    (whole, values, state), (cut, others, _) = trained(), trained("train.accumulation=2")
    for name, weight in whole.items():
        torch.testing.assert_close(cut[name], weight, rtol=1e-3, atol=1e-5)
    for one, other in zip(values, others, strict=True):
        assert set(one) == {"loss", "loss/meanflow", "loss/meanflow_raw", "loss/dudt_norm", "grad_norm"}
        assert other["loss/meanflow_raw"].item() == pytest.approx(one["loss/meanflow_raw"].item(), rel=1e-4)
        # What is logged is no part of the loss.
        assert one["loss/meanflow"].item() < 1 < one["loss/meanflow_raw"].item()
    average, weight = state.ema.module.net.final.linear.weight, whole["final.linear.weight"]
    assert 0 < average.abs().sum() < weight.abs().sum()


TRAIN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from nanogen import parallel
from nanogen.train import train
from tiny import tiny

with parallel.processes() as device:
    train(tiny(4, *sys.argv[3:]), Path(sys.argv[1]), device, ["test"])
"""


def test_two_processes_train_as_one(tmp_path):
    options = ("objective.name=meanflow", "objective.fm_ratio=0.5", "objective.kappa=0.5", "guidance.scale=1")
    settings = (*options, "sampler.num_steps=1", "sample.num=1", "optim.lr=1e-3", "train.accumulation=2")
    ended = pair(TRAIN, tmp_path / "two", Path(__file__).parent, *settings)
    assert [one.returncode for one in ended] == [0, 0], ended[0].stderr + ended[1].stderr
    train(tiny(4, *settings), tmp_path / "one", "cpu", ["test"])
    one, two = (load_file(tmp_path / name / "checkpoints/step-00000004/ema.safetensors") for name in ("one", "two"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-3, atol=1e-5)
    lines = [(tmp_path / name / "metrics.jsonl").read_text().count("dudt_norm") for name in ("one", "two")]
    assert lines == [2, 2]


@pytest.mark.slow
def test_a_compiled_network_has_the_eager_derivative():
    eager, net = reference_network(num_times=2), reference_network(num_times=2)
    # What matters is that nothing compiled meets a dual number; the code generator adds minutes.
    net.compile_blocks(backend="aot_eager")
    for tau in (FM, MF):
        found, wanted = (
            mean_flow(kappa=0.5).loss_at(one, X, LABELS, EPS, tau)[1].logged["meanflow_raw"] for one in (net, eager)
        )
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=0)


# What is refused.

GIVEN = ("objective.name=meanflow", "guidance.scale=1", "sampler.num_steps=2")


@pytest.mark.parametrize(
    "override, message",
    [
        ("guidance.scale=2", r"guidance.scale: guidance in sampling is not defined for objective 'meanflow': its guid"),
        ("guidance.internal.scale=2", r"guidance.internal.scale: guidance in sampling is not defined"),
        ("guidance.internal.null_scale=2", r"command line: guidance.internal.null_scale: .*Set guidance.internal.nu"),
        (
            "sampler.num_steps=3",
            r"objective 'meanflow' is sampled in at most 2 steps, found 3\. Set sampler.num_st",
        ),
        ("sampler.name=heun", r"objective 'meanflow' gives mean velocities, 'heun' takes none\. Set euler\."),
        ("objective.kappa=1", r"objective.kappa: input should be less than 1"),
        ("objective.early_weight=0", r"objective.early_weight: input should be greater than 0"),
        ("objective.omega=0", r"objective.omega: input should be greater than 0"),
        ("objective.interval=[1, 0]", r"objective.interval: must be two times 0 <= low <= high <= 1"),
    ],
)
def test_what_is_not_defined_is_refused(override, message):
    config = tiny(1, *GIVEN).config
    with pytest.raises(ConfigError, match=message):
        tiny(1, *GIVEN, override)
    if override.startswith(("guidance", "sampler")):
        with pytest.raises(ConfigError, match=message):
            changed(config, [override], ("sampler", "guidance"), "the run is trained")


@pytest.mark.parametrize("drop", [0, 1])
def test_guidance_is_refused_where_training_never_sees_one_of_its_branches(drop):
    """What was never trained for gives anything."""
    never, found = f"condition.drop_prob={drop}", rf"guidance needs a condition.drop_prob between 0 and 1, found {drop}"
    for options in ("objective.kappa=0.5", "objective.omega=2"):
        with pytest.raises(ConfigError, match=rf"condition.drop_prob: {found}. Set condition"):
            tiny(1, *GIVEN, never, options)
    tiny(1, *GIVEN, never)
    tiny(1, "objective.early_depth=1", "guidance.internal.scale=2", "guidance.scale=1", never)
    plain = tiny(1, never, "guidance.scale=1").config
    for given in (["guidance.scale=2"], ["objective.early_depth=1", "guidance.internal.scale=2", "guidance.scale=2"]):
        with pytest.raises(ConfigError, match=rf"guidance.scale: {found}. Set guidance.scale=1"):
            tiny(1, never, *given)
    with pytest.raises(ConfigError, match=r"guidance.scale: guidance needs"):
        changed(plain, ["guidance.scale=2"], ("sampler", "guidance"), "the run is trained")


def test_a_vector_and_two_times_are_refused_together(tmp_path):
    (tmp_path / "mine.yaml").write_text("objective: {name: reg}\nguidance.scale: 1\nsampler.num_steps: 1\n")
    message = r"objective 'meanflow' cannot take the place of 'reg': a class vector is diffused along one time, and"
    with pytest.raises(ConfigError, match=message):
        compose("digits", file=tmp_path / "mine.yaml", overrides=["objective.name=meanflow"])
