"""Verbs that say what a training costs, and whether it goes as it should."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from diffusionbench import bounds
from diffusionbench.errors import ConfigError
from diffusionbench.verbs import with_groups
from nanogen.cli.options import Json, TrainingOptions


@with_groups
def bench(
    chosen: TrainingOptions,
    synthetic: Annotated[bool, typer.Option("--synthetic", help="random latents: no data set, no weights")] = False,
    steps: Annotated[int, typer.Option(min=1, max=bounds.REPEATS, help="timed steps")] = 20,
    warmup: Annotated[int, typer.Option(min=0, max=bounds.REPEATS, help="steps before them")] = 5,
    text_tokens: Annotated[
        int, typer.Option(min=1, max=bounds.TOKENS, help="length of the captions with --synthetic")
    ] = 64,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="measure this machine for `nanogen plan`, in minutes where it is idle")
    ] = False,
) -> None:
    """Time the real training loop and print JSON: images per second, time by part, model FLOPs, memory.

    \b
    Examples:
      nanogen bench --task digits
      nanogen bench --task imagenet256 --method sd-vae-ema --scale paper --synthetic train.batch_size=64
      nanogen bench --task t2i256 --synthetic --text-tokens 120 train.batch_size=64
      nanogen bench --calibrate train.precision=float32
    """
    if calibrate:
        chosen = replace(chosen, task=chosen.task or "digits")
    config = chosen.compose().config
    from nanogen import calibration
    from nanogen.bench import bench as run_bench
    from nanogen.bench import calibrate as measure

    if calibrate:
        rates = measure(config)
        print(rates.model_dump_json(indent=2))
        calibration.keep(rates)
        return
    print(json.dumps(run_bench(config, synthetic, steps, warmup, text_tokens), indent=2))


@with_groups
def plan(
    chosen: TrainingOptions,
    devices: Annotated[int, typer.Option(min=1, max=bounds.WORKERS, help="processes, one on each device")] = 1,
    per_node: Annotated[int, typer.Option(min=1, max=bounds.WORKERS, help="of them in one machine")] = 8,
    device: Annotated[
        str | None, typer.Option(help="h200, h100, a100, a100-40; default: this machine, as it was measured")
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(min=1e-3, max=bounds.FACTOR, callback=bounds.number, help="GB of a device, where it has another"),
    ] = None,
    utilisation: Annotated[
        float | None,
        typer.Option(min=1e-3, max=1, callback=bounds.number, help="share of the device's peak; default 0.4"),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(min=0, max=bounds.FACTOR, callback=bounds.number, help="of one device for an hour"),
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, max=bounds.DURATION, help="in the data, for durations in epochs")
    ] = None,
    text_tokens: Annotated[int, typer.Option(min=1, max=bounds.TOKENS, help="mean length of a caption")] = 64,
    as_json: Json = False,
) -> None:
    """Say what a training will cost: parameters, memory, time, disk and money, and what does not fit.

    Takes what `nanogen train` takes, or a run folder. Nothing is read but the config.

    \b
    Examples:
      nanogen plan --task digits
      nanogen plan --task imagenet256 --images 1281167 --device h200 --devices 8 --price 2.5
      nanogen plan --task t2i256 --device a100 --devices 64 --utilisation 0.3 --text-tokens 120 --json
    """
    from nanogen.plan import Machine, read_config
    from nanogen.plan import plan as make_plan

    run = next((word for word in chosen.words or () if "=" not in word and Path(word).is_dir()), None)
    if run is not None and chosen != TrainingOptions([run]):
        raise ConfigError(f"{run} is a run folder, whose own config is planned. Leave the other words and options out.")
    config = chosen.compose().config if run is None else read_config(Path(run))
    machine = Machine(devices, per_node, device, memory and memory * 1e9, utilisation, price)
    made = make_plan(config, machine, num_images=images, text_tokens=text_tokens)
    print(json.dumps(made.as_dict(), indent=2) if as_json else "\n".join(made.lines()))


def check(
    runs: Annotated[list[Path], typer.Argument(help="a run folder; with --make several, of different seeds")],
    like: Annotated[
        Path | None, typer.Option(help="a reference curve: its file, or the name of one that ships")
    ] = None,
    make: Annotated[bool, typer.Option("--make", help="write the curve of finished runs")] = False,
    out: Annotated[Path | None, typer.Option(help="with --make: JSON file to write")] = None,
) -> None:
    """Say whether a run follows a reference curve in loss and gradient norm; exit code 3 where it does not.

    \b
    Examples:
      nanogen check --make outputs/seed-1 outputs/seed-2 outputs/seed-3 --out curve.json
      nanogen check outputs/mine --like curve.json
      nanogen check outputs/mine --like curve.json && echo healthy
    """
    from nanogen import curves

    if make != (like is None) or make != (out is not None) or (like is not None and len(runs) != 1):
        raise ConfigError("give either RUN --like CURVE, or --make RUN RUN ... --out FILE.")
    if out is not None:
        curves.write_curve(curves.make_curve(runs), out)
        print(out)
        return
    found = curves.compare_curve(runs[0], curves.read_curve(like or Path()))
    print("\n".join(found.lines()))
    if not found.follows:
        raise typer.Exit(3)
