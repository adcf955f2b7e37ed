"""The command line of NanoGen: parse, call one library function, print.

A verb imports what it needs in its first lines: `--help` answers at once, and torch is loaded by verbs that compute.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from diffusionbench.errors import ConfigError, run_program
from diffusionbench.verbs import check_given, with_groups
from nanogen.cli import measuring, prepare, runs, tokenizers, training
from nanogen.cli.options import Json, NetworkOptions, TrainingOptions
from nanogen.threads import limit_waiting

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="""Train and sample diffusion transformers.

Examples:

  nanogen train --task digits

  nanogen sample outputs/digits-pixel-v-laptop --labels 0-9 --num 64 --out grid.png

  nanogen show --task imagenet256 --method sd-vae-ema --scale paper --why
""",
)

for verb in (
    training.init,
    training.train,
    training.launch,
    runs.sample,
    runs.evaluate,
    runs.sweep,
    training.study,
    runs.report,
    training.demo,
    runs.push,
    measuring.bench,
    measuring.plan,
    measuring.check,
):
    app.command("eval" if verb is runs.evaluate else None)(verb)
app.add_typer(prepare.prepare, name="prepare")
app.add_typer(tokenizers.tokenizer, name="tokenizer")
app.add_typer(tokenizers.latents, name="latents")


def main() -> None:
    """Run a command; wrong use ends with exit code 2 and one sentence, a failed run with 1."""
    limit_waiting()
    run_program(_program, "interrupted; the same command continues")


def _program() -> None:
    check_given(sys.argv)
    app()


@app.command("import")
@with_groups
def import_weights(
    file: Annotated[Path, typer.Argument(help="a released checkpoint, such as CONFIG-v0.pt")],
    chosen: NetworkOptions,
    out: Annotated[Path, typer.Option("--out", help="weights file to write")] = Path("ema.safetensors"),
) -> None:
    """Write the averaged weights of a released checkpoint as a file that `nanogen sample` takes.

    Nothing in the file is executed; names and shapes must be those of the task and method, at the paper's scale unless
    another is asked for.

    \b
    Examples:
      nanogen import released.pt --task imagenet256 --method sd-vae-mse --out sd-vae-mse.safetensors
      nanogen import released.pt --task t2i256 --method flux2-vae --out flux2.safetensors
      nanogen import released.pt --task imagenet256 --method dinov2-b --out dinov2-b.safetensors
    """
    config = replace(chosen, scale=chosen.scale or "paper").compose().config
    from nanogen.importing import import_network

    step = import_network(file, config, out)
    print(f"{out}: step {step}" if step else f"{out}: the file does not say its step")


@app.command()
@with_groups
def show(
    chosen: TrainingOptions,
    why: Annotated[bool, typer.Option("--why", help="with the file and line every value came from")] = False,
    diff: Annotated[
        tuple[str, str] | None, typer.Option("--diff", help="two tasks: only the keys in which they differ")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print a config with everything that follows from it; imports no torch and reads no data.

    --diff compares two tasks at one scale and with one method: those asked for, or the first task's own.

    \b
    Examples:
      nanogen show --task digits
      nanogen show --task imagenet256 --method sd-vae-ema --scale paper --why
      nanogen show mine.yaml optim.lr=1e-4 --json
      nanogen show --diff digits shapes
    """
    from nanogen.show import as_dict, as_difference, as_text

    if diff is not None:
        if chosen.task is not None or why:
            raise ConfigError("--diff names both tasks itself. Leave --task and --why out.")
        first = replace(chosen, task=diff[0]).compose()
        same = TrainingOptions(chosen.words, diff[1], first.choice["method"], first.choice["scale"], chosen.data)
        print(as_difference(diff, (first, same.compose()), as_json))
        return
    composed = chosen.compose()
    print(json.dumps(as_dict(composed), indent=2) if as_json else as_text(composed, why))


@app.command("ls")
def list_names(
    what: Annotated[str, typer.Argument(help="tasks, methods, scales, latents, encoders, data, ...")] = "",
    as_json: Json = False,
) -> None:
    """List what can be chosen.

    \b
    Examples:
      nanogen ls
      nanogen ls methods
      nanogen ls latents --json
    """
    from diffusionbench.views.terminal import print_tables
    from nanogen.show import tables

    print_tables(tables(), what, as_json)
