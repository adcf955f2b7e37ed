"""Options that several verbs share, and groups of them that travel as one value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from diffusionbench import bounds
from diffusionbench.provenance import check_device
from diffusionbench.references import check_role

Json = Annotated[bool, typer.Option("--json", help="print JSON and nothing else")]
Metrics = Annotated[str, typer.Option("--metrics", help="comma-separated; see `diffusionbench ls metrics`")]
Device = Annotated[str, typer.Option("--device", callback=check_device, help="of the judges: cpu, cuda, cuda:N or mps")]
Store = Annotated[
    Path | None, typer.Option("--store", help="keep images and evidence here, to continue and to score again")
]
StoreFolder = Annotated[Path, typer.Argument(help="an image store, as `--store` or a run's evaluation left it")]
PartOf = Annotated[str | None, typer.Option("--part", help="i/n: this part of the images only; `merge` unites parts")]
Out = Annotated[Path | None, typer.Option("--out", help="record file; without it the record is only printed")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="check the request, score nothing")]


@dataclass(frozen=True)
class Generator:
    """Whose images are scored: how they are made or told apart, and what the record says of them."""

    axis: Annotated[
        str | None, typer.Option("--axis", help="see `diffusionbench ls axes`; default by --prompts and --metrics")
    ] = None
    labels: Annotated[
        Path | None, typer.Option("--labels", help="file with one class label a line, in natural order of names")
    ] = None
    prompts: Annotated[str | None, typer.Option("--prompts", help="prompt set of the images: NAME or NAME:LAYOUT")] = (
        None
    )
    layout: Annotated[
        str | None,
        typer.Option("--layout", help="how images lie: flat, folder, geneval, grid:RxC, npz, tar; default by names"),
    ] = None
    claim: Annotated[
        Path | None, typer.Option("--claim", help="YAML file about prompt set and generator; see docs/simpleeval.md")
    ] = None
    num: Annotated[
        int | None,
        typer.Option("--num", min=1, max=bounds.IMAGES, help="images to score; default all, or a complete evaluation"),
    ] = None
    classes: Annotated[
        int | None,
        typer.Option("--classes", min=1, max=bounds.CLASSES, help="ask a function for the classes 0..N-1 in turn"),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, max=bounds.SEED, help="from which the seeds of a function's samples follow"),
    ] = None
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, max=bounds.BATCH, help="images to ask a function for at once")
    ] = None
    version: Annotated[
        str | None, typer.Option("--version", help="of a function: stored images of an equal version are used again")
    ] = None
    name: Annotated[str | None, typer.Option("--method", help="name of the generator in the record")] = None
    title: Annotated[
        str | None, typer.Option("--title", help="name of the generator for display; default the method")
    ] = None
    family: Annotated[
        str | None, typer.Option("--family", help="kind of generator, as on the board (pixel, vae, rae)")
    ] = None
    quantisation: Annotated[
        Literal["truncate", "round"] | None,
        typer.Option("--quantisation", help="by which rule floats become, or became, 8 bits"),
    ] = None
    allow_partial: Annotated[
        bool,
        typer.Option("--allow-partial", help="score images though some cannot be, and mark the record partial"),
    ] = False
    trained_with: Annotated[
        list[str] | None,
        typer.Option("--trained-with", help="judge or network that it was trained with, whose metrics it may not lead"),
    ] = None
    guidance: Annotated[
        float | None,
        typer.Option(
            "--guidance",
            min=0,
            max=bounds.GUIDANCE,
            callback=bounds.number,
            help="guidance scale the images are made with; 1 is none",
        ),
    ] = None


@dataclass(frozen=True)
class ReferenceOptions:
    """With which real images they are compared."""

    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference", help="name, or path of real images or statistics; JUDGE=REF for one judge alone; repeatable"
        ),
    ] = None
    extractors: Annotated[
        list[str] | None,
        typer.Option("--reference-extractor", help="judge whose statistics an unknown file holds, as you assert"),
    ] = None
    role: Annotated[
        str | None,
        typer.Option("--reference-role", help="split of the real images: train, val or test", callback=check_role),
    ] = None
