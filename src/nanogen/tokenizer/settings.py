"""The config of a first stage, in the same format as that of the second; every default is in configs/tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from diffusionbench import bounds
from diffusionbench.errors import ConfigError
from diffusionbench.judges import JUDGES
from diffusionbench.limits import read_small
from diffusionbench.registry import Table, nearest
from nanogen.config import ConfigLayer, check_options, checked, command_line, overlaid, read_own, read_yaml
from nanogen.datasets import DATASETS
from nanogen.optimizers import OPTIMIZERS
from nanogen.settings import Batch, Duration, Images, LogConfig, Period, Point, Section, Seed, Share
from nanogen.tokenizer import TOKENIZERS, Factor

_FOLDER, _BASE = "tokenizer", "base"
# Sections whose keys the rows of tables declare, or a user names.
_FREE = ("net.", "data.sources.")


class SourceConfig(Section):
    """One data set: its path, its share of each batch, and where the images for the evaluation are.

    `held_out` is the name of a split or, where the data takes one, a path; a number leaves so many of the last images
    out of the training.
    """

    path: str | None = None
    share: Annotated[float, Field(gt=0, le=bounds.FACTOR)] = 1.0
    held_out: str | Images


class TokenizerData(Section):
    sources: dict[str, SourceConfig] = Field(min_length=1)
    image_size: int = Field(ge=1, le=bounds.SIDE)
    workers: int = Field(ge=0, le=bounds.WORKERS)
    cache_mb: int = Field(ge=0, le=bounds.MEMORY)
    mirror: float = Field(ge=0, le=1)


class LossConfig(Section):
    l1: Factor
    l2: Factor
    coloured: Factor
    detail: Factor
    lpips: Factor
    adversarial: Factor
    adversarial_start: Duration
    critic_start: Duration


class TokenizerOptim(Section):
    """Rate of both optimizers; names as in a config of the second stage."""

    name: str
    lr: float = Field(gt=0, le=bounds.LARGEST)
    betas: tuple[Share, Share]
    eps: float = Field(gt=0, le=1)
    weight_decay: Factor
    warmup: Point
    final_factor: float = Field(ge=0, le=1)


class TokenizerTrain(Section):
    duration: Duration
    batch_size: Batch
    grad_clip: float = Field(gt=0, allow_inf_nan=True)
    ema_decay: float = Field(ge=0, lt=1)
    ema_ramp: bool
    precision: Literal["auto", "bfloat16", "float32"]
    checkpoint_every: Period
    keep: int = Field(ge=1, le=bounds.REPEATS)


class TokenizerEval(Section):
    every: Period
    num: Images
    judges: tuple[str, ...]


class TokenizerConfig(Section):
    """A complete, checked config of a first stage; `net` holds the options that its row declares."""

    seed: Seed
    net: dict[str, Any]
    data: TokenizerData
    losses: LossConfig
    optim: TokenizerOptim
    train: TokenizerTrain
    eval: TokenizerEval
    log: LogConfig


def recipe_names() -> list[str]:
    """Return the known recipes, sorted."""
    names = (entry.name for entry in (files("nanogen") / "configs" / _FOLDER).iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml") and name != f"{_BASE}.yaml")


def compose_tokenizer(recipe: str, overrides: Iterable[str] = ()) -> TokenizerConfig:
    """Merge base, recipe and overrides, and check the result.

    Args:
        recipe: a name, or the path of a YAML file.
        overrides: "a.b=value".

    Raises:
        ConfigError: for unknown names and keys and wrong values; file and line are named.
    """
    base = ConfigLayer.of(*read_own(_FOLDER, f"{_BASE}.yaml"))
    if recipe in recipe_names():
        layer = ConfigLayer.of(*read_own(_FOLDER, f"{recipe}.yaml"))
    elif Path(recipe).is_file():
        try:
            layer = ConfigLayer.of(read_yaml(read_small(Path(recipe)).decode(), recipe), recipe)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"config file {recipe}: {error}. Give the path of a YAML file.") from None
    else:
        hint = nearest(recipe, recipe_names())
        raise ConfigError(f"unknown recipe '{recipe}': neither a name nor a file. {hint}")
    merged = dict(base)
    for one in (layer, *map(command_line, overrides)):
        merged = overlaid(merged, one, base, _FREE)
    config = checked(TokenizerConfig, merged)
    check_options(TOKENIZERS, config.net.get("kind"), config.net, "net", merged)
    tables: tuple[tuple[Table[Any], Iterable[str]], ...] = (
        (DATASETS, config.data.sources),
        (OPTIMIZERS, [config.optim.name]),
        (JUDGES, config.eval.judges),
    )
    for table, name in ((table, name) for table, names in tables for name in names if name not in table):
        raise ConfigError(f"unknown {table.kind} '{name}'. {nearest(name, list(table))}")
    return config
