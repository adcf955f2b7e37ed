"""Verbs that compute once what trainings need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffusionbench import bounds
from diffusionbench.errors import ConfigError
from nanogen.cli.options import (
    DataPath,
    Method,
    Scale,
    Task,
    Words,
    compose_words,
    parse_part,
)

prepare = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Compute once what a training needs.")
PartText = Annotated[
    str, typer.Option("--part", help="i/n: every n-th shard from the i-th on; all may share the folder")
]
Workers = Annotated[int, typer.Option(min=1, max=bounds.WORKERS, help="processes that prepare; same files")]
Engine = Annotated[str, typer.Option(help="local, or ray: actors of a cluster")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="say bytes, hours and when it pays, by a few items; write nothing")
]


@prepare.command("text")
def prepare_text(
    out: Annotated[Path, typer.Option("--out", help="folder for the cache; an older cache there is replaced")],
    words: Words = None,
    task: Task = None,
    method: Method = None,
    scale: Scale = None,
    data: DataPath = None,
    dtype: Annotated[str, typer.Option(help="float16, bfloat16 or float32")] = "float16",
    part: PartText = "1/1",
    workers: Workers = 1,
    engine: Engine = "local",
    dry_run: DryRunOption = False,
) -> None:
    """Encode every distinct caption once: the data's, and those of the evaluation's prompt set.

    Train with condition.cache=FOLDER; the encoder is then never loaded. The same command continues. Parts leave their
    shards in FOLDER.parts; once all are there, the command without --part makes the cache of them.

    \b
    Examples:
      nanogen prepare text --task shapes --out outputs/shapes-text --workers 2
      nanogen prepare text --task shapes --out outputs/shapes-text --dry-run
      nanogen prepare text --task t2i256 --data shards/ --out text/ --dtype bfloat16
      nanogen prepare text --task t2i256 --data pictures/ --out text/ condition.encoder=minilm-l6
    """
    config = compose_words(words, task, method, scale, data).config
    from nanogen.prepare import DryRun
    from nanogen.prepare import prepare_text as run
    from nanogen.shards import Spread

    manifest = run(config, out, dtype, Spread(parse_part(part), workers, engine), dry_run)
    if isinstance(manifest, DryRun):
        print("\n".join(manifest.lines()))
    if manifest is None or isinstance(manifest, DryRun):
        return
    print(f"{out}: {manifest.captions:,} distinct captions, {manifest.tokens:,} states of {manifest.width}", end="")
    print(f" in {manifest.dtype}, {manifest.truncated:,} captions cut to {manifest.max_tokens} tokens")


@prepare.command("latents")
def prepare_latents(
    out: Annotated[Path, typer.Option("--out", help="folder for the cache; one of the same recipe is continued")],
    words: Words = None,
    task: Task = None,
    method: Method = None,
    scale: Scale = None,
    data: DataPath = None,
    dtype: Annotated[str, typer.Option(help="float16, bfloat16 or float32")] = "float16",
    part: PartText = "1/1",
    workers: Workers = 1,
    engine: Engine = "local",
    dry_run: DryRunOption = False,
    statistics: Annotated[
        bool, typer.Option("--statistics", help="mean and variance per channel and position instead of a cache")
    ] = False,
) -> None:
    """Encode every image once; train with latent.cache=FOLDER. The same command continues, and repairs damaged shards.

    With --statistics it writes statistics/stats.safetensors, in float64 on the way; latent.weights=FOLDER uses them.

    \b
    Examples:
      nanogen prepare latents --task shapes --out outputs/shapes-latents --workers 2
      nanogen prepare latents --task imagenet256 --data pictures/ --out latents/ --part 3/64
      nanogen prepare latents --task imagenet256 --method dinov2-b --data pictures/ --out dinov2/ --statistics
    """
    config = compose_words(words, task, method, scale, data).config
    if statistics and ((part, workers, engine) != ("1/1", 1, "local") or dry_run):
        raise ConfigError(
            "--statistics are of all images in one process. Leave out --part, --workers, --engine and --dry-run."
        )
    from nanogen import prepare as preparing
    from nanogen.shards import Spread

    spread = Spread(parse_part(part), workers, engine)
    if statistics:
        written = preparing.prepare_statistics(config, out)
        if written is not None:
            print(written)
        return
    made = preparing.prepare_latents(config, out, dtype, spread, dry_run)
    if isinstance(made, preparing.DryRun):
        print("\n".join(made.lines()))
    elif made is not None:
        print(f"{out}: {made.count:,} latents of {made.latent} in {made.dtype}")


@prepare.command("images")
def prepare_images(
    out: Annotated[Path, typer.Option("--out", help="folder for the cache; one of the same recipe is continued")],
    words: Words = None,
    task: Task = None,
    method: Method = None,
    scale: Scale = None,
    data: DataPath = None,
    part: PartText = "1/1",
    workers: Workers = 1,
    engine: Engine = "local",
    dry_run: DryRunOption = False,
) -> None:
    """Decode, crop and store every image at the training's size once; train with data.cache=FOLDER.

    \b
    Examples:
      nanogen prepare images --task digits --out outputs/digits-images
      nanogen prepare images --task imagenet256 --data pictures/ --out images/ --part 3/64
      nanogen prepare images --task imagenet256 --data pictures/ --out images/ --dry-run
    """
    config = compose_words(words, task, method, scale, data).config
    from nanogen import prepare as preparing
    from nanogen.shards import Spread

    made = preparing.prepare_images(config, out, Spread(parse_part(part), workers, engine), dry_run)
    if isinstance(made, preparing.DryRun):
        print("\n".join(made.lines()))
    elif made is not None:
        print(f"{out}: {made.count:,} images of {made.image_size} px, {made.total_bytes / 1e9:.3g} GB")


@prepare.command("weights")
def prepare_weights(
    name: Annotated[str, typer.Argument(help="a latent space, see `nanogen ls latents`")],
    weights: Annotated[Path | None, typer.Option("--weights", help="folder of its files; default: the usual")] = None,
) -> None:
    """Find or fetch the weight files of a latent space; pickled ones are written once more as safetensors.

    Origin and licence are said before a download; `nanogen ls latents` says them too.

    \b
    Examples:
      nanogen prepare weights sd-vae-ema
      nanogen prepare weights rae-dinov2-b --weights released/
      nanogen prepare weights flux2-vae
    """
    from nanogen.importing import prepare_weights as run

    for part, paths in run(name, weights).items():
        print(f"{part}: {', '.join(map(str, paths))}")
