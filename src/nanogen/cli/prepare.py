"""Verbs that compute once what trainings need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffusionbench import bounds
from diffusionbench.errors import ConfigError
from diffusionbench.verbs import with_groups
from nanogen.cli.options import TrainingOptions, parse_part

if TYPE_CHECKING:
    from nanogen.shards import Spread

prepare = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Compute once what a training needs.")
Cache = Annotated[Path, typer.Option("--out", help="folder for the cache; one of the same recipe is continued")]
Dtype = Annotated[str, typer.Option(help="float16, bfloat16 or float32")]


@dataclass(frozen=True)
class ShardOptions:
    """The options by which shards are shared out."""

    part: Annotated[
        str, typer.Option("--part", help="i/n: every n-th shard from the i-th on; all may share the folder")
    ] = "1/1"
    workers: Annotated[int, typer.Option(min=1, max=bounds.WORKERS, help="processes that prepare; same files")] = 1
    engine: Annotated[str, typer.Option(help="local, or ray: actors of a cluster")] = "local"
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say bytes, hours and when it pays, by a few items; write nothing")
    ] = False

    def spread(self) -> Spread:
        from nanogen.shards import Spread

        return Spread(parse_part(self.part), self.workers, self.engine)


def tell(made: Any, words: Callable[[Any], str]) -> None:
    """Print what a dry run found, or the words about a manifest; processes that have none print nothing."""
    from nanogen.prepare import DryRun

    if made is not None:
        print("\n".join(made.lines()) if isinstance(made, DryRun) else words(made))


@prepare.command("text")
@with_groups
def prepare_text(
    out: Annotated[Path, typer.Option("--out", help="folder for the cache; an older cache there is replaced")],
    chosen: TrainingOptions,
    shards: ShardOptions,
    dtype: Dtype = "float16",
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
    config = chosen.compose().config
    from nanogen.prepare import prepare_text as run

    tell(
        run(config, out, dtype, shards.spread(), shards.dry_run),
        lambda made: (
            f"{out}: {made.captions:,} distinct captions, {made.tokens:,} states of {made.width} in {made.dtype}, "
            f"{made.truncated:,} captions cut to {made.max_tokens} tokens"
        ),
    )


@prepare.command("latents")
@with_groups
def prepare_latents(
    out: Cache,
    chosen: TrainingOptions,
    shards: ShardOptions,
    dtype: Dtype = "float16",
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
    config = chosen.compose().config
    if statistics and shards != ShardOptions():
        raise ConfigError(
            "--statistics are of all images in one process. Leave out --part, --workers, --engine and --dry-run."
        )
    from nanogen import prepare as preparing

    if statistics:
        tell(preparing.prepare_statistics(config, out), str)
    else:
        made = preparing.prepare_latents(config, out, dtype, shards.spread(), shards.dry_run)
        tell(made, lambda made: f"{out}: {made.count:,} latents of {made.latent} in {made.dtype}")


@prepare.command("images")
@with_groups
def prepare_images(out: Cache, chosen: TrainingOptions, shards: ShardOptions) -> None:
    """Decode, crop and store every image at the training's size once; train with data.cache=FOLDER.

    \b
    Examples:
      nanogen prepare images --task digits --out outputs/digits-images
      nanogen prepare images --task imagenet256 --data pictures/ --out images/ --part 3/64
      nanogen prepare images --task imagenet256 --data pictures/ --out images/ --dry-run
    """
    config = chosen.compose().config
    from nanogen.prepare import prepare_images as run

    tell(
        run(config, out, shards.spread(), shards.dry_run),
        lambda made: f"{out}: {made.count:,} images of {made.image_size} px, {made.total_bytes / 1e9:.3g} GB",
    )


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
