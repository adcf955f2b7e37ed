"""Verbs that use what a run has trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from diffusionbench import bounds
from diffusionbench.errors import ConfigError
from nanogen.cli.options import (
    GuidanceScale,
    Json,
    Overrides,
    RunFolder,
    Seed,
    Step,
    check_use_of_run,
    with_options,
)


def sample(
    run: Annotated[Path, typer.Argument(help="a run folder, an ema.safetensors file, or hf:OWNER/NAME")],
    overrides: Overrides = None,
    labels: Annotated[str, typer.Option(help="classes to show, such as 0-9 or 3,5,7")] = "",
    prompt: Annotated[list[str] | None, typer.Option("--prompt", help="what to draw; repeat it")] = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", help="UTF-8 file with one prompt a line")] = None,
    num: Annotated[
        int | None,
        typer.Option(min=1, max=bounds.IMAGES, help="images; default 64, or one for each prompt of a longer file"),
    ] = None,
    guidance: GuidanceScale = None,
    seed: Seed = 0,
    batch_size: Annotated[
        int | None, typer.Option(min=1, max=bounds.BATCH, help="images at once; changes speed only")
    ] = None,
    out: Annotated[Path, typer.Option(help="grid.png, a folder, or images.npz")] = Path("grid.png"),
) -> None:
    """Make images from a trained run.

    Image i depends on (weights, label or prompt, seed, i) only. Labels and prompts are taken in turn: --labels 0-9
    --num 64 shows 0, 1, ...

    \b
    Examples:
      nanogen sample outputs/demo --labels 0-9 --num 64 --guidance 2.0 --out grid.png
      nanogen sample outputs/demo --labels 7 --num 500 --out sevens/
      nanogen sample outputs/shapes-toy-ae-laptop --prompt "two red circles above a blue square" --num 16
      nanogen sample outputs/demo --num 1000 --out images.npz sampler.num_steps=25
      nanogen sample hf:OWNER/NAME --labels 0-9 --num 64
    """
    from nanogen.conditions import parse_labels

    changes = with_options(overrides, {"guidance.scale": guidance})
    parse_labels(labels)
    run = check_use_of_run(run, changes)
    from nanogen.sample import SampleRequest, read_prompts, sample_run

    wanted = [*(prompt or []), *([] if prompts is None else read_prompts(prompts))]
    if sample_run(run, changes, SampleRequest(labels, wanted, num, seed or 0, batch_size), out):
        print(out)


def evaluate(
    run: RunFolder,
    overrides: Overrides = None,
    guidance: GuidanceScale = None,
    tuned: Annotated[bool, typer.Option("--tuned", help="the method's tuned scale, on times [0, 0.9]")] = False,
    metrics: Annotated[str, typer.Option(help="comma-separated; default: the run's")] = "",
    num: Annotated[int | None, typer.Option(min=1, max=bounds.IMAGES, help="images; default: the run's")] = None,
    seed: Seed = None,
    step: Step = None,
    out: Annotated[
        Path | None, typer.Option(help="record file; default: in the run folder, by the record's id")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score a trained run and write a record.

    \b
    Examples:
      nanogen eval outputs/demo
      nanogen eval outputs/demo --guidance 2.0 --num 359 --seed 1
      nanogen eval outputs/demo --metrics accuracy_digits --json
    """
    given = {
        "guidance.scale": guidance,
        "eval.metrics": f"[{metrics}]" if metrics else None,
        "eval.num_samples": num,
        "eval.seed": seed,
    }
    changes = with_options(overrides, given)
    run = check_use_of_run(run, changes)
    from nanogen.evaluate import evaluate_run

    record = evaluate_run(run, changes, tuned, out, step)
    if record is None:
        return
    from diffusionbench.views.terminal import print_record

    try:
        if out is not None:
            record.save(out)
    finally:
        # A result that cannot be written is not lost.
        print_record(record, as_json)


def sweep(
    run: RunFolder,
    metric: Annotated[
        str | None, typer.Option(help="to choose by; default: the run's first that needs real images")
    ] = None,
    grid: Annotated[str, typer.Option(help="scales to try, such as 1,1.5,2; default: golden-section search")] = "",
    high: Annotated[
        float | None,
        typer.Option(
            min=1.001, max=bounds.GUIDANCE, callback=bounds.number, help="largest scale of the search; default 10"
        ),
    ] = None,
    evaluations: Annotated[
        int | None, typer.Option(min=2, max=bounds.REPEATS, help="scales that the search tries; default 8")
    ] = None,
    num: Annotated[int | None, typer.Option(min=1, max=bounds.IMAGES, help="images; default: the run's")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=bounds.SEED - 1, help="of the noise that scores; the next one tunes")
    ] = None,
    step: Step = None,
    as_json: Json = False,
) -> None:
    """Choose the guidance scale on some images and score it on others; the same command continues.

    Guidance acts on times [0, 0.9]. Real images of even index and one seed tune, those of odd index and another seed
    score. The record says what was tried; the unguided score and a plot stand beside it.

    \b
    Examples:
      nanogen sweep outputs/demo
      nanogen sweep outputs/demo --grid 1,1.25,1.5,2,3 --metric fd_digits
      nanogen sweep outputs/demo --num 1000 --evaluations 6 --json
    """
    run = check_use_of_run(run, [])
    asked = {"high": high, "evaluations": evaluations}
    search: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if grid and search:
        raise ConfigError(
            f"--grid names the scales that are tried, and --{', --'.join(search)} belongs to the search. Leave one out."
        )
    from nanogen.sweep import SweepRequest, parse_scales, sweep_run

    request = SweepRequest(metric, parse_scales(grid), num=num, seed=seed, step=step)
    record = sweep_run(run, replace(request, **search))
    if record is not None:
        from diffusionbench.views.terminal import print_record

        print_record(record, as_json)


def report(
    runs: Annotated[list[Path], typer.Argument(help="a run folder, or two to show side by side")],
    out: Annotated[Path | None, typer.Option(help="HTML file; default: report.html in the first run folder")] = None,
) -> None:
    """Write one self-contained HTML page about a run: samples, losses, scores, config, how to reproduce.

    Of two runs it also says which config lines differ.

    \b
    Examples:
      nanogen report outputs/demo
      nanogen report outputs/demo outputs/demo-shapes --out demo.html
      nanogen report outputs/digits-pixel-v-laptop
    """
    from nanogen.report import write_report

    print(write_report(runs, out).resolve())


def push(
    run: RunFolder,
    to: Annotated[str, typer.Option("--to", help="OWNER/NAME on the Hugging Face hub")],
    licence: Annotated[str | None, typer.Option(help="of the weights, such as apache-2.0")] = None,
    private: Annotated[bool, typer.Option("--private", help="make a new repository private")] = False,
    dataset: Annotated[
        str | None, typer.Option(help="a benchmark's data set there: write the newest record to .eval_results")
    ] = None,
) -> None:
    """Put a run's weights, config and records on the hub, with a card made from them; print the name and commit.

    \b
    Examples:
      nanogen push outputs/mine --to OWNER/NAME
      nanogen push outputs/mine --to OWNER/NAME --licence apache-2.0 --private
      nanogen push outputs/mine --to OWNER/NAME --dataset OWNER/BENCHMARK
    """
    from nanogen.push import push_run

    print(push_run(run, to, licence=licence, private=private, dataset=dataset))
