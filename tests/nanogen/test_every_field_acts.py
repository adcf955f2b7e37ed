"""Every value of a config acts where it should: changing it alone changes what was observed there, to what it says.

A field without an entry fails, so whoever adds one says here where it shows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny
from torch import nn
from watch import Sampling, register, sampling, training

from diffusionbench.errors import ConfigError, UserError
from diffusionbench.record import load
from diffusionbench.store import ImageStore
from nanogen import evaluate, trackers
from nanogen.build import build_components
from nanogen.config import ConfigLayer, read_own
from nanogen.data import order
from nanogen.latents.pixel import Pixel
from nanogen.model.dit import DDT
from nanogen.train import build, open_data, train, training_source


@dataclass(frozen=True)
class Field:
    """Where a field shows.

    Attributes:
        value: what it is set to.
        seen: overrides to what is observed; takes the test's folder too where it needs one.
        expected: what is observed then, or a function of what is observed without the change; None: anything else.
        given: overrides of both observations.
    """

    value: str
    seen: Callable[..., Any]
    expected: Any = None
    given: tuple[str, ...] = ()


def once(observe: Callable[[Any], Any], steps: int = 1) -> Callable[..., Any]:
    """What shows in a few updates."""
    return lambda folder, *overrides: observe(training(steps, *overrides))


def largest_gradient(seen) -> tuple[float, float, float, float]:
    """Of one weight in the first update: its gradient, its change, and the two averages of the optimizer."""
    name = "final.linear.weight"
    gradient = seen.applied[0][name].flatten()
    place = int(gradient.abs().argmax())
    state = seen.state.updater.optimizers[0].state[dict(seen.state.module.net.named_parameters())[name]]
    change = (seen.weights[1][name] - seen.weights[0][name]).flatten()[place].item()
    averages = (state[key].flatten()[place].item() for key in ("exp_avg", "exp_avg_sq"))
    return gradient[place].item(), change, *averages


def betas(seen) -> list[float]:
    gradient, _, first, second = largest_gradient(seen)
    return [1 - first / gradient, 1 - second / gradient**2]


def epsilon(seen) -> float:
    gradient, change, *_ = largest_gradient(seen)
    return seen.rates[0] * abs(gradient / change) - abs(gradient)


def decay_of_weights(seen) -> float:
    """Of a weight whose gradient is 0: at the start the output map hides the encoder."""
    name = next(key for key in seen.weights[0] if key.startswith("encoder.0.") and seen.weights[0][key].ndim == 2)
    ratio = (seen.weights[1][name] / seen.weights[0][name]).median().item()
    return (1 - ratio) / seen.rates[0]


def average_decay(seen) -> float:
    name = "final.linear.weight"
    before, after = seen.weights[0][name], seen.weights[1][name]
    average = dict(seen.state.ema.module.net.named_parameters())[name]
    return ((average - after) / (before - after)).median().item()


def logits(seen) -> torch.Tensor:
    """Of the times that the network was told."""
    return torch.cat([torch.logit(t) for _, t, _ in seen.calls])


def random_numbers(seen) -> tuple:
    """Initial weights, images and noise, times, order, and who lost the condition: none may stay."""
    z, t, condition = seen.calls[0]
    drop = "".join(str(int(label == 10)) for *_, one in seen.calls for label in one.labels)
    weights = seen.weights[0]["encoder_embed.weight"].sum().item()
    return weights, z.sum().item(), t.sum().item(), condition.labels.tolist(), drop


def dropped(seen) -> float:
    labels = [label for *_, condition in seen.calls for label in condition.labels.tolist()]
    return labels.count(10) / len(labels)


def sizes(seen) -> list[int]:
    return [len(z) for z, *_ in seen.calls]


def after_nan(folder: Path, *overrides: str) -> str:
    from nanogen.optim import NonFiniteLoss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nanogen.latents.pixel.Pixel.encode", lambda self, images: images * math.nan)
        try:
            training(2, *overrides)
        except NonFiniteLoss:
            return "stopped"
    return "went on"


def shape(name: str) -> Callable[..., Any]:
    return lambda folder, *overrides: getattr(training(0, *overrides).state.module.net.shape, name)


def blocks(folder: Path, *overrides: str) -> list[int]:
    model = training(0, *overrides).state.module.net
    return [len(model.encoder), len(model.decoder)]


def weights_folder(folder: Path, *overrides: str) -> str | None:
    asked: list[str | None] = []
    config = open_data(tiny(1, *overrides).config)[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nanogen.build.open_latent", lambda name, device, weights: asked.append(weights))
        build_components(config, "cpu", "float32")
    return asked[0]


def cache_folder(folder: Path, *overrides: str) -> str:
    data, config = open_data(tiny(1, *overrides).config)
    try:
        return type(training_source(data, config, build_components(config, "cpu", "float32"))).__name__
    except UserError as error:
        return str(error).partition(":")[0]


def compiled(folder: Path, *overrides: str) -> int:
    done: list[DDT] = []
    data, config = open_data(tiny(1, *overrides).config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DDT, "compile_blocks", lambda self: done.append(self))
        build(config, build_components(config, "cpu", "float32"), len(data))
    return len(done)


def encoding_in_tf32(folder: Path, *overrides: str) -> bool:
    """While an image is encoded in training; never after it."""
    seen: list[bool] = []
    encode = Pixel.encode
    with pytest.MonkeyPatch.context() as patch:
        asked = torch.backends.cuda.matmul
        patch.setattr(Pixel, "encode", lambda *given: (seen.append(asked.allow_tf32), encode(*given))[1])
        training.cache_clear()
        training(1, "latent.cache_mb=0", *overrides)
        training.cache_clear()
    assert not asked.allow_tf32
    return seen[0]


RUNS: dict[tuple, Path] = {}


def run(folder: Path, *overrides: str) -> Path:
    """The folder of a run of four steps; equal requests share one, which stays as long as the tests run."""
    if overrides not in RUNS:
        train(tiny(4, *overrides), folder, "cpu", ["test"])
        RUNS[overrides] = folder
    return RUNS[overrides]


def lines(folder: Path, *overrides: str) -> list[int]:
    rows = map(json.loads, (run(folder, *overrides) / "metrics.jsonl").read_text().splitlines())
    return [row["step"] for row in rows if "loss/flow" in row]


def checkpoints(folder: Path, *overrides: str) -> list[int]:
    return sorted(int(path.name[5:]) for path in (run(folder, *overrides) / "checkpoints").glob("step-*"))


def grids(folder: Path, *overrides: str) -> list[int]:
    return sorted(int(path.stem[5:]) for path in (run(folder, *overrides) / "samples").glob("*.png"))


def records(folder: Path, *overrides: str):
    found = [load(path) for path in (run(folder, *overrides) / "evals").glob("*.json")]
    return sorted(found, key=lambda record: record.provenance.step)


def images_left(folder: Path, *overrides: str) -> list[int]:
    """Images that the evaluation of a run leaves, by store."""
    train(tiny(1, *overrides), folder, "cpu", ["test"])
    return [ImageStore(file.parent).count() for file in folder.glob("evals/images/*/store.json")]


def record(observe: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda folder, *overrides: observe(records(folder, *overrides)[-1])


def products(folder: Path, *overrides: str) -> set[torch.dtype]:
    """Number types in which the network of a run multiplies."""
    seen: set[torch.dtype] = set()

    def note(module: nn.Module, given: object, out: torch.Tensor) -> None:
        if isinstance(module, nn.Linear):
            seen.add(out.dtype)

    handle = nn.modules.module.register_module_forward_hook(note)
    try:
        train(tiny(1, *overrides), folder, "cpu", ["test"])
    finally:
        handle.remove()
    return seen


def sinks(folder: Path, *overrides: str) -> list[int]:
    steps: list[int] = []

    class Sink:
        def __init__(self, *_: object) -> None:
            pass

        def picture(self, *_: object) -> None:
            pass

        def log(self, step: int, values: object) -> None:
            steps.append(step)

        def finish(self) -> None:
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trackers, "TensorBoard", Sink)
        train(tiny(4, *overrides), folder, "cpu", ["test"])
    return steps


DRAWN: dict[tuple, Sampling] = {}


def drawn(observe: Callable[[Any], Any]) -> Callable[..., Any]:
    """What shows in the images that a run draws and scores at its end."""

    def observed(folder: Path, *overrides: str) -> Any:
        if overrides not in DRAWN:
            with sampling() as DRAWN[overrides]:
                train(tiny(1, *overrides), folder, "cpu", ["test"])
        return observe(DRAWN[overrides])

    return observed


def pictures(folder: Path) -> Path:
    """Eight black pictures in a folder and eight white ones in another, each of one class."""
    for name, level in (("black", 0), ("white", 255)):
        (folder / name / name).mkdir(parents=True, exist_ok=True)
        for index in range(8):
            Image.new("RGB", (12, 12), (level,) * 3).save(folder / name / name / f"{index}.png")
    return folder


def opened(observe: Callable[[Any], Any]) -> Callable[..., Any]:
    """What shows in the data; `{data}` in an override is a folder of pictures."""

    def observed(folder: Path, *overrides: str) -> Any:
        data = pictures(folder) if any("{data}" in one for one in overrides) else folder
        return observe(open_data(tiny(1, *(one.replace("{data}", str(data)) for one in overrides)).config)[0])

    return observed


def refusal(folder: Path, *overrides: str) -> str:
    """The middle clause of why data of another kind than the condition is refused."""
    try:
        open_data(tiny(1, *overrides).config)
    except ConfigError as error:
        return str(error).split(", and ")[1].split(".")[0]
    return "none"


def share_of_white(data) -> float:
    loader = order.batches(data, seed=0, batch_size=8)
    return np.mean([next(loader).image.float().mean().item() / 255 for _ in range(10)])


def broken(folder: Path, *overrides: str) -> str:
    data = pictures(folder)
    (data / "white" / "white" / "3.png").write_bytes(b"no picture")
    found = open_data(tiny(1, f"data.path={data / 'white'}", *overrides).config)[0]
    try:
        return str(len([found[index] for index in range(8)]))
    except Exception as error:
        return type(error).__name__


def workers(folder: Path, *overrides: str) -> int:
    seen: list[int] = []

    def loader(dataset, **options):
        seen.append(options["num_workers"])
        raise ConfigError("seen")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "DataLoader", loader)
        with pytest.raises(ConfigError, match="seen"):
            train(tiny(1, f"data.path={pictures(folder) / 'white'}", *overrides), folder / "run", "cpu", ["test"])
    return seen[0]


def kept(folder: Path, *overrides: str) -> str:
    data, config = open_data(tiny(1000, *overrides).config)
    return type(training_source(data, config, build_components(config, "cpu", "float32"))).__name__


def asked(observe: Callable[[Any], Any]) -> Callable[..., Any]:
    """What the benchmark is asked."""

    def observed(folder: Path, *overrides: str) -> Any:
        config = open_data(tiny(1, *overrides).config)[1]
        components = build_components(config, "cpu", "float32")
        try:
            return observe(evaluate.evaluation_of(config, components, "toy").request)
        except UserError:
            return "refused"

    return observed


def parts(observe: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda folder, *overrides: observe(build_components(tiny(1, *overrides).config, "cpu", "float32"))


STILL = ("time.mu=0", "time.sigma=1e-6", "time.shift=1")
FALLING = ("optim.decay_start=0 steps", "optim.decay_end=4 steps", "optim.final_factor=0")
FOLDER = ("data.name=imagefolder", "data.path='{data}/black'", "condition.num_classes=auto")
TEMPLATE = "data.template='a {class}'"
BLACK_AND_WHITE = ("data.name=imagefolder", "data.path=['{data}/black', '{data}/white']", TEMPLATE)
CAPTIONS = ("condition.kind=text", "condition.encoder=minilm-l6")
SCORED = ("eval.metrics=[accuracy_digits]", "eval.num_samples=12")
TEXT_SCORED = (
    "eval.axis=t2i",
    "eval.metrics=[simpleeval_shapes_v1]",
    "data.name=shapes",
    "data.image_size=24",
    *CAPTIONS,
)
STEADY = ("guidance.scale=1", "sampler.num_steps=2", "sampler.shift=1", *SCORED)
GUIDED = ("guidance.scale=3", "guidance.interval=[0, 1]", "sampler.num_steps=4", "sampler.shift=1", *SCORED)
EARLY = ("objective.early_depth=1", "guidance.internal.interval=[0, 1]")
FIELDS = {
    "seed": Field("7", once(random_numbers, 2), None, ("condition.drop_prob=0.5",)),
    "latent.name": Field("toy-ae", once(lambda seen: tuple(seen.calls[0][0].shape[1:])), None, ("data.image_size=32",)),
    "latent.weights": Field("elsewhere", weights_folder, "elsewhere"),
    "latent.cache": Field("absent", cache_folder, "absent is no latent cache"),
    "latent.cache_mb": Field("2", kept, "CachedLatents", ("latent.cache_mb=0",)),
    "model.encoder_depth": Field("2", blocks, [2, 1]),
    "model.encoder_hidden_size": Field("32", shape("encoder_hidden_size"), 32),
    "model.encoder_num_heads": Field("4", shape("encoder_num_heads"), 4),
    "model.decoder_depth": Field("2", blocks, [1, 2]),
    "model.decoder_hidden_size": Field("48", shape("decoder_hidden_size"), 48),
    "model.decoder_num_heads": Field("1", shape("decoder_num_heads"), 1),
    "model.num_time_tokens": Field("3", shape("num_time_tokens"), 3),
    "model.num_class_tokens": Field("5", shape("num_class_tokens"), 5),
    "model.pixel_grid": Field("2", shape("patch_size"), 4),
    "condition.kind": Field(
        "text", parts(lambda made: type(made.conditioner).__name__), "TextConditioner", CAPTIONS[1:]
    ),
    "condition.num_classes": Field("12", shape("num_classes"), 12),
    "condition.encoder": Field(
        "minilm-l6-shapes", parts(lambda made: made.conditioner._states.encoder.name), None, CAPTIONS
    ),
    "condition.max_tokens": Field("7", parts(lambda made: made.conditioner._states.encoder.max_tokens), 7, CAPTIONS),
    "condition.drop_prob": Field("1.0", once(dropped), 1.0, ("condition.drop_prob=0", "guidance.scale=1")),
    "data.name": Field("shapes", refusal, "the data has no labels", ("data.image_size=24",)),
    "data.path": Field("{data}/white", opened(lambda data: data.classes), ("white",), FOLDER),
    "data.weights": Field("[3, 1]", opened(share_of_white), 0.25, (*BLACK_AND_WHITE, *CAPTIONS)),
    "data.template": Field(
        "'one {class}'", opened(lambda data: data.caption(0)), "one black", (*FOLDER, TEMPLATE, *CAPTIONS)
    ),
    "data.cache": Field("absent", cache_folder, "absent is no image cache"),
    "data.corrupt": Field("skip", broken, "8", ("data.name=imagefolder", "condition.num_classes=auto")),
    "data.image_size": Field("16", once(lambda seen: tuple(seen.calls[0][0].shape[1:])), (3, 16, 16)),
    "data.workers": Field("1", workers, 1, ("data.name=imagefolder", "condition.num_classes=auto")),
    "objective.name": Field("other", parts(lambda made: type(made.objective).__name__), "Other"),
    "objective.predict": Field("x", parts(lambda made: made.objective.options.predict), "x"),
    "time.mu": Field("1.5", once(lambda seen: logits(seen).mean().item()), 1.5, STILL),
    "time.sigma": Field("0.5", once(lambda seen: logits(seen).std().item()), lambda one: 0.5 * one, ("time.sigma=1",)),
    "time.shift": Field("4", once(lambda seen: logits(seen).mean().item()), math.log(4), STILL),
    "losses": Field(
        "{encoded: {weight: 3}}",
        once(lambda seen: seen.values[0]["loss/encoded"].item()),
        lambda one: 3 * one,
        ("losses={encoded: {weight: 1}}",),
    ),
    "optim.name": Field(
        "momentum", once(lambda seen: [type(one).__name__ for one in seen.state.updater.optimizers]), ["SGD", "AdamW"]
    ),
    "optim.lr": Field("1e-3", once(lambda seen: abs(largest_gradient(seen)[1])), 1e-3),
    "optim.betas": Field("[0.5, 0.75]", once(betas), [0.5, 0.75]),
    "optim.eps": Field("0.25", once(epsilon), 0.25, ("train.grad_clip=.inf",)),
    "optim.weight_decay": Field("0.5", once(decay_of_weights), 0.5, ("optim.lr=0.1",)),
    "optim.warmup": Field("4 steps", once(lambda seen: seen.rates[0]), lambda one: one / 4),
    "optim.decay_start": Field("2 steps", once(lambda seen: seen.rates[3], 4), lambda one: 2 * one, FALLING),
    "optim.decay_end": Field("6 steps", once(lambda seen: seen.rates[3], 4), lambda one: 2 * one, FALLING),
    "optim.final_factor": Field("0.5", once(lambda seen: seen.rates[-1] / seen.rates[0], 6), 0.5, FALLING),
    "train.duration": Field("2 steps", lines, [1, 2]),
    "train.batch_size": Field("16", once(sizes), [16]),
    "train.accumulation": Field("4", once(sizes), [2, 2, 2, 2]),
    "train.grad_clip": Field(
        "0.125", once(lambda seen: math.sqrt(sum(one.square().sum() for one in seen.applied[0].values()))), 0.125
    ),
    "train.ema_decay": Field("0.75", once(average_decay), 0.75, ("train.ema_ramp=false", "optim.lr=0.1")),
    "train.ema_ramp": Field("true", once(average_decay), 0.1, ("train.ema_ramp=false", "optim.lr=0.1")),
    "train.precision": Field("bfloat16", products, {torch.bfloat16}),
    "train.compile": Field("true", compiled, 1),
    "train.tf32": Field("true", encoding_in_tf32, True),
    "train.checkpointing": Field("block", once(lambda seen: seen.state.module.net.checkpointing), True),
    "train.nonfinite": Field("skip", after_nan, "went on"),
    "train.checkpoint_every": Field("2 steps", checkpoints, [2, 4], ("train.keep=9",)),
    "train.keep": Field("2", checkpoints, [3, 4], ("train.checkpoint_every=1 steps",)),
    "train.keep_every": Field("2 steps", checkpoints, [2, 4], ("train.checkpoint_every=1 steps", "train.keep=1")),
    "sampler.name": Field("heun", drawn(lambda seen: len(seen.times)), lambda one: one * 3 / 2, STEADY),
    "sampler.num_steps": Field("3", drawn(lambda seen: len(seen.times)), lambda one: one * 3 / 2, STEADY),
    "sampler.shift": Field("3", drawn(lambda seen: sorted(set(seen.times))), [0.75, 1], STEADY),
    "guidance.scale": Field("2", drawn(lambda seen: seen.drift), lambda one: [2] * len(one), STEADY),
    "guidance.interval": Field("[0, 0.5]", drawn(lambda seen: seen.drift), lambda one: [2] * len(one), GUIDED),
    "guidance.internal.scale": Field(
        "2", drawn(lambda seen: seen.drift), lambda one: [2] * len(one), (*STEADY, *EARLY)
    ),
    "guidance.internal.interval": Field(
        "[0, 0.5]",
        drawn(lambda seen: seen.drift),
        lambda one: [2] * len(one),
        (*GUIDED, *EARLY, "guidance.scale=1", "guidance.internal.scale=3"),
    ),
    "guidance.internal.null_scale": Field(
        "2", drawn(lambda seen: seen.drift), lambda one: [1] * len(one), (*GUIDED, *EARLY, "guidance.scale=2")
    ),
    "sample.every": Field("1 steps", grids, [1, 2, 3, 4]),
    "sample.num": Field("7", drawn(lambda seen: seen.labels), [[0, 1, 2, 3, 4, 5, 6]]),
    "eval.axis": Field("t2i", asked(lambda request: request.axis), "t2i", TEXT_SCORED[1:]),
    "eval.every": Field("2 steps", lambda *given: [one.provenance.step for one in records(*given)], [2, 4], SCORED),
    "eval.metrics": Field("[fd_digits]", record(lambda one: list(one.values)), ["fd_digits"], SCORED),
    "eval.reference": Field("null", record(lambda one: sorted(one.anchors)), [], SCORED),
    "eval.keep_images": Field("first 5", images_left, [5], SCORED),
    "eval.num_samples": Field("14", record(lambda one: one.protocol.count), 14, SCORED),
    "eval.prompt_seed": Field("public-1", asked(lambda request: request.prompts.seed), "public-1", TEXT_SCORED),
    "eval.prompt_layout": Field("standard", asked(lambda request: request.prompts.layout), "standard", TEXT_SCORED),
    "eval.batch_size": Field("5", drawn(lambda seen: [len(some) for some in seen.labels]), [2, 5, 5, 2], STEADY),
    "eval.seed": Field("9", drawn(lambda seen: seen.noise[0][0, 0, 0, 0].item()), None, STEADY),
    "log.every": Field("2 steps", lines, [2, 4]),
    "log.sinks": Field("[tensorboard]", sinks, [1, 2, 3, 4]),
}
# Fields that show in a command of their own, each in the test that is named here.
ELSEWHERE = {
    "train.shard": "test_sharding.py::test_losses_are_equal_however_the_weights_are_shared",
    "noise": "test_run_folders.py::test_a_run_with_the_noise_of_an_earlier_version_is_sampled_and_scored",
    "condition.cache": "test_t2i.py::test_a_cache_gives_the_same_losses_and_the_encoder_stays_closed",
    "eval.reference_extractors": "test_cli.py::test_a_run_is_scored_against_references_by_judge",
    "eval.tuned_scale": "test_sampling_uses.py::test_the_tuned_scale_acts_on_its_interval",
}


def same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, float | int) or (isinstance(wanted, list) and wanted and isinstance(wanted[0], float)):
        return found == pytest.approx(wanted, rel=2e-3, abs=1e-6)
    return found == wanted


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_acts(name, tmp_path, monkeypatch):
    register(monkeypatch)
    one = FIELDS[name]
    before = one.seen(tmp_path / "before", *one.given)
    after = one.seen(tmp_path / "after", *one.given, f"{name}={one.value}")
    if one.expected is None:
        assert all(a != b for a, b in zip(before, after, strict=True)) if isinstance(before, tuple) else before != after
        return
    wanted = one.expected(before) if callable(one.expected) else one.expected
    assert same(after, wanted), (after, wanted)
    assert not same(before, wanted), f"{name} shows nothing: {wanted} is seen without it"


def test_every_field_has_an_entry():
    known = set(ConfigLayer.of(*read_own("base.yaml")))
    assert known == FIELDS.keys() | ELSEWHERE.keys()


def test_tests_named_elsewhere_are_there():
    for place in ELSEWHERE.values():
        file, _, name = place.partition("::")
        assert f"def {name}(" in (Path(__file__).parent / file).read_text(encoding="utf-8"), place
