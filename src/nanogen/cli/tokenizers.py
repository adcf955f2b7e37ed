"""Verbs of the first stage: train an autoencoder, look at a latent space."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from diffusionbench import bounds
from nanogen.cli.options import DataPath, Json, NetworkOptions, Scale, Task, Words

tokenizer = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Train autoencoders: the first stage.")
latents = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at latent spaces.")


@tokenizer.command("train")
def train_tokenizer(
    recipe: Annotated[str, typer.Argument(help="a recipe, see `nanogen ls tokenizers`, or a YAML file")],
    overrides: Annotated[list[str] | None, typer.Argument(help="overrides such as net.depth=12")] = None,
    run: Annotated[str | None, typer.Option("--run", "--run-dir", help="name in outputs/, or a path")] = None,
) -> None:
    """Train an autoencoder, or the decoder over a frozen encoder; the same command started again continues.

    Weights and statistics of its latents are written into the folder's `export`.

    Examples:

      nanogen tokenizer train toy-vae

      nanogen tokenizer train toy-rae --run mine train.duration='4k steps' optim.lr=1e-3

      nanogen tokenizer train rae-dinov2-b data.sources.imagefolder.path=train/ data.sources.imagefolder.held_out=val/
    """
    from nanogen.tokenizer.settings import compose_tokenizer

    config = compose_tokenizer(recipe, overrides or [])
    from nanogen import parallel
    from nanogen import run as runs
    from nanogen.tokenizer.recipe import train_recipe

    folder = runs.folder(run or f"tokenizer-{Path(recipe).stem}")
    with parallel.processes() as device:
        train_recipe(config, folder, device)
        if parallel.is_main():
            print(folder)


@latents.command("inspect")
def inspect_latents(
    name: Annotated[str, typer.Argument(help="a latent space, see `nanogen ls latents`")],
    words: Words = None,
    task: Task = "digits",
    scale: Scale = "laptop",
    data: DataPath = None,
    num: Annotated[int, typer.Option(min=2, max=bounds.IMAGES, help="images")] = 512,
    judges: Annotated[str, typer.Option(help="comma-separated feature networks of distances")] = "inception,efflite0",
    probe: Annotated[str | None, typer.Option(help="run folder: also train a small network on the latents")] = None,
    as_json: Json = False,
) -> None:
    """Measure reconstructions and the spectrum of latents; with --probe also how well a small network learns from them.

    The probe is a run of the task at the laptop's scale, 2,000 steps or ten minutes on two cores, with its scores and
    their intervals.

    Examples:

      nanogen latents inspect toy-vae

      nanogen latents inspect toy-rae --task shapes --probe outputs/probe-toy-rae train.duration='4k steps'

      nanogen latents inspect taef2 --task imagefolder --data pictures/ data.image_size=256 latent.weights=FOLDER
    """
    from nanogen.latents import LATENTS

    defaults = [f"data.image_size={LATENTS[name].image_size or 32}"] if task in ("digits", "shapes") else []
    defaults += [] if probe is None else ["train.duration=2k steps"]
    composed = NetworkOptions([*defaults, *(words or []), f"latent.name={name}"], task, None, scale).compose(data)
    from nanogen import run as runs
    from nanogen.tokenizer.inspecting import as_text, inspect

    asked = [judge for judge in judges.split(",") if judge]
    folder = None if probe is None else runs.folder(probe)
    found = inspect(composed, num, asked, folder, ["nanogen", *sys.argv[1:]])
    print(json.dumps(found, indent=2) if as_json else as_text(found))
