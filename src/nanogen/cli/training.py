"""Verbs that train: one run, a demo, a study."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from diffusionbench import bounds
from diffusionbench.errors import ConfigError
from diffusionbench.verbs import with_groups
from nanogen.cli.options import NetworkOptions, Scale, TrainingOptions, check_use_of_run, parse_part


def init(
    pictures: Annotated[Path, typer.Argument(help="folder, file or pattern of your images")],
    scale: Annotated[str, typer.Option("--scale", help="how big: laptop, single-gpu or paper")] = "laptop",
    out: Annotated[Path | None, typer.Option(help="config file to write; default: called after the images")] = None,
) -> None:
    """Look at your own images and write a commented config for them, with what a training will cost.

    \b
    Examples:
      nanogen init pictures/
      nanogen init captioned/ --out mine.yaml
      nanogen init 'shards/train-*.parquet' --scale single-gpu
    """
    from nanogen.init import write_config

    print("\n".join(write_config(pictures, scale, out)))


@with_groups
def train(
    chosen: TrainingOptions,
    run: Annotated[str | None, typer.Option("--run", "--run-dir", help="name in outputs/, or a path")] = None,
    resume: Annotated[Path | None, typer.Option(help="continue this run; nothing else is started")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check what needs no training, then stop")] = False,
) -> None:
    """Train a model; the same command started again continues.

    \b
    Examples:
      nanogen train --task digits
      nanogen train --task imagefolder --data pictures/ --run mine data.image_size=32
      torchrun --nproc-per-node 2 -m nanogen train --task digits --run-dir outputs/two optim.lr=1e-3
      nanogen train --resume outputs/mine

    torchrun keeps --run for itself (its own options start so); --run-dir is the same option.
    """
    from nanogen.config import check_reference

    if resume is None:
        composed = chosen.compose()
    else:
        if run or chosen != TrainingOptions(chosen.words):
            raise ConfigError("--resume takes task, method, scale, data and place from the run. Leave the others out.")
        check_use_of_run(resume, chosen.words or [])
        from nanogen.run import resumed

        composed = resumed(resume, chosen.words or [])
    check_reference(composed)
    from nanogen import evaluate, parallel, show
    from nanogen import run as runs
    from nanogen import train as training

    if dry_run:
        if composed.config.eval.metrics:
            evaluate.check_axis(composed.config)
        print(show.as_text(replace(composed, config=training.open_data(composed.config)[1])))
        return
    folder = resume or runs.folder(run or "-".join(composed.choice[kind] for kind in ("task", "method", "scale")))
    with parallel.processes() as device:
        finished = training.train(composed, folder, device, ["nanogen", *sys.argv[1:]])
        if parallel.is_main():
            print(finished.path)


@with_groups
def launch(
    run: Annotated[Path, typer.Argument(help="the run folder, which need not be there yet")],
    chosen: NetworkOptions,
    kind: Annotated[str, typer.Option("--print", help="slurm or sky: the file to print")] = "slurm",
    nodes: Annotated[int, typer.Option(min=1, max=bounds.WORKERS, help="machines")] = 1,
    gpus: Annotated[int, typer.Option(min=1, max=bounds.WORKERS, help="of each machine, a process each")] = 8,
    hours: Annotated[int, typer.Option(min=1, max=bounds.WORKERS, help="that the scheduler grants at once")] = 24,
) -> None:
    """Print a file that trains, or continues, a run on a cluster (SLURM) or in a cloud (SkyPilot).

    \b
    Examples:
      nanogen launch --print slurm outputs/digits --task digits --nodes 2 --gpus 4
      nanogen launch --print sky outputs/digits --task digits train.shard=hybrid
      nanogen launch --print slurm outputs/demo --hours 4
    """
    from nanogen.launch import Machines, arguments_of, script

    named = {"--task": chosen.task, "--method": chosen.method, "--scale": chosen.scale}
    words = [word for option, value in named.items() if value for word in (option, value)] + (chosen.words or [])
    if words:
        chosen.compose()
    print(script(kind, run, words or arguments_of(run), Machines(nodes, gpus, hours)), end="")


def study(
    words: Annotated[list[str] | None, typer.Argument(help="name or file, and changes: TASK.key=value")] = None,
    scale: Scale = None,
    run: Annotated[str | None, typer.Option("--run", help="name in outputs/, or a path")] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="pattern of cells; repeat it")] = None,
    part: Annotated[str, typer.Option(help="i/n: every n-th cell from the i-th on; all share the folder")] = "1/1",
    fresh: Annotated[list[str] | None, typer.Option("--fresh", help="cell to remove and measure anew")] = None,
    possible: Annotated[bool, typer.Option("--possible", help="leave out cells that make no sense")] = False,
    launch: Annotated[str, typer.Option(help="words before our verbs; default: this Python")] = "",
    cells: Annotated[bool, typer.Option("--cells", help="list the cells and their states, then stop")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="plan hours and disk, then stop")] = False,
) -> None:
    """Train and score many methods on several tasks under one recipe; the same command continues.

    \b
    Examples:
      nanogen study --dry-run
      nanogen study laptop --only "digits-*"
      nanogen study laptop-seeds --part 1/4
      nanogen study paper-2026-06 --launch "torchrun --nproc-per-node 8 -m nanogen" imagenet256.data.path=train/
    """
    from nanogen.study.command import StudyRequest, run_study

    request = StudyRequest(words or [], scale, run, only or [], parse_part(part), fresh or [], possible, launch)
    run_study(request, dry_run, cells)


def demo(
    run: Annotated[str, typer.Option("--run", help="name in outputs/ of the first run")] = "demo",
) -> None:
    """Train, score and report two small networks, by class and by caption; `make demo` installs and calls this.

    \b
    Examples:
      nanogen demo
      nanogen demo --run again
      nanogen demo --run /tmp/demo
    """
    from nanogen.demo import demo as show

    print(show(run).resolve())
