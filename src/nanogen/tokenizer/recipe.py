"""From the config of a first stage to its training, and to the files that `nanogen.latents` reads."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from diffusionbench.errors import ConfigError, DataError
from diffusionbench.judges.lpips import missing_weights, open_lpips
from diffusionbench.schema import digest
from diffusionbench.writing import make_folder, write_atomic, write_errors
from nanogen import parallel, precision
from nanogen.data import Batch, Dataset, Example, Wrapped
from nanogen.data.memory import CachedLatents, cache_latents
from nanogen.data.mixture import PLACE, Mixture, with_template
from nanogen.data.opening import open_dataset
from nanogen.data.order import batches, in_order
from nanogen.datasets import DATASETS
from nanogen.latents.cache import Statistics
from nanogen.log import say
from nanogen.optimizers import OPTIMIZERS
from nanogen.outputs import Periods
from nanogen.rng import initial_seed
from nanogen.settings import to_steps
from nanogen.state import Optimizers
from nanogen.tokenizer import TOKENIZERS
from nanogen.tokenizer.discriminator import Discriminator, missing_trunk, open_trunk
from nanogen.tokenizer.first_stage import Critic, FirstStage, train_tokenizer
from nanogen.tokenizer.measure import Measured, save_pairs
from nanogen.tokenizer.nets import Tokenizer
from nanogen.tokenizer.reconstruction import Reconstruction
from nanogen.tokenizer.settings import SourceConfig, TokenizerConfig

Source = Dataset | CachedLatents


class Span(Wrapped):
    """Some of the examples of a data set, one after the other."""

    def __init__(self, dataset: Dataset, within: range) -> None:
        super().__init__(dataset)
        self.within, self.digest = within, digest([dataset.digest, within.start, within.stop])

    def __len__(self) -> int:
        return len(self.within)

    @property
    def components(self) -> tuple[Any, ...]:
        return Dataset.components.fget(self)  # type: ignore[attr-defined]

    def __getitem__(self, index: int) -> Example:
        return self.dataset[self.within[index]]

    def caption(self, index: int) -> str | None:
        return self.dataset.caption(self.within[index])


@dataclass(frozen=True)
class Cosine:
    """Learning rate: a rise over `warmup` steps, then a cosine down to `final_factor` of it at step `last`."""

    lr: float
    warmup: int
    last: int
    final_factor: float

    def __call__(self, step: int) -> float:
        """Rate of the update that follows `step` finished updates."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.last - self.warmup))
        return self.lr * (self.final_factor + (1 - self.final_factor) * (1 + math.cos(math.pi * done)) / 2)


def open_sources(config: TokenizerConfig) -> tuple[Dataset, dict[str, Dataset]]:
    """Return the training images of a config, mixed, and the held-out ones of each source.

    Raises:
        DataError: if data is missing or unreadable.
        ConfigError: if as many images are to be held out as there are.
    """
    size = config.data.image_size
    pairs = {name: _open_source(name, source, size) for name, source in config.data.sources.items()}
    several = len(pairs) > 1
    training = [
        with_template(data, PLACE, name) if several and not data.captioned and data.classes else data
        for name, (data, _) in pairs.items()
    ]
    shares = [source.share for source in config.data.sources.values()]
    return Mixture(training, shares) if several else training[0], {name: held for name, (_, held) in pairs.items()}


def _open_source(name: str, source: SourceConfig, size: int) -> tuple[Dataset, Dataset]:
    whole = open_dataset(name, source.path, image_size=size)
    if isinstance(source.held_out, str):
        takes_path = DATASETS[name].takes_path
        path, split = (source.held_out, "train") if takes_path else (None, source.held_out)
        return whole, open_dataset(name, path, image_size=size, split=split)
    cut = len(whole) - source.held_out
    if cut < 1:
        raise ConfigError(f"data.sources.{name}.held_out is {source.held_out} of {len(whole)} images. Leave some.")
    return Span(whole, range(cut)), Span(whole, range(cut, len(whole)))


def kept(data: Dataset, config: TokenizerConfig) -> Source:
    """Return the data, or its images in memory where they fit into data.cache_mb."""
    if len(data) * 3 * config.data.image_size**2 > config.data.cache_mb * 2**20:
        return data
    if parallel.is_main():
        say(f"decoding {len(data):,} images once (data.cache_mb)")

    def stored(batch: Batch) -> Tensor:
        assert batch.image is not None
        return batch.image

    return cache_latents(data, in_order(data, 256, config.data.workers), stored)


def build_net(config: TokenizerConfig, data: Source, device: str) -> Tokenizer:
    """Return the network of a config on a device; initial weights depend on the seed alone.

    Raises:
        ConfigError: if its options do not fit each other or the data.
        RequestError, CheckpointError: if a frozen network that it needs is missing or another one.
    """
    row, words = TOKENIZERS[config.net["kind"]], []
    if config.net["kind"] == "masked":
        captions = data.captions if isinstance(data, CachedLatents) else map(data.caption, range(len(data)))
        words = sorted({word for caption in captions or () for word in (caption or "").split()})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(initial_seed(config.seed, "weights"))
        options = row.options.model_validate(config.net)
        net: Tokenizer = TOKENIZERS.load(config.net["kind"])(options, config.data.image_size, words, device)
    return net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def with_what_is_here(config: TokenizerConfig) -> TokenizerConfig:
    """Return the config with weight 0 for the terms whose networks are absent, and say so once."""
    absent = {"lpips": missing_weights(), "adversarial": missing_trunk()}
    off = {name: reason for name, reason in absent.items() if reason and getattr(config.losses, name)}
    if off and parallel.is_main():
        say(" ".join(f"losses.{name} is 0 here: {reason}" for name, reason in off.items()))
    return config.model_copy(update={"losses": config.losses.model_copy(update=dict.fromkeys(off, 0.0))})


def build_stage(config: TokenizerConfig, device: str) -> tuple[FirstStage, Source]:
    """Return the training that a config describes, and its data.

    Raises:
        UserError: for whatever is wrong with the request; nothing is written.
    """
    config = with_what_is_here(config)
    training, held_out = open_sources(config)
    data = kept(training, config)
    batch, losses, optim = config.train.batch_size, config.losses, config.optim
    last = to_steps(config.train.duration, batch, len(data)) or 0
    starts = [to_steps(point, batch, len(data)) or 0 for point in (losses.critic_start, losses.adversarial_start)]
    if not last or (losses.adversarial and starts[0] > starts[1]):
        raise ConfigError(
            f"train.duration is {last} steps, losses.critic_start {starts[0]} and adversarial_start {starts[1]}: there "
            "must be a step, and a discriminator that learns no later than it is listened to."
        )
    net = build_net(config, data, device)
    number = precision.choose(config.train.precision, device)
    lpips = open_lpips(device) if losses.lpips else None
    critic = _critic(config.seed, device) if losses.adversarial else None
    loss = Reconstruction(
        *(losses, net, lpips, critic, starts[1], config.data.mirror),
        cast=lambda: precision.autocast(number, device),
    )
    optimizer = OPTIMIZERS.load(optim.name)
    optimizers: Optimizers = lambda parameters: optimizer(parameters, optim)  # noqa: E731
    warmup = to_steps(optim.warmup, batch, len(data), last) or 0
    schedule = Cosine(optim.lr, warmup, last, optim.final_factor)
    measured: list[Measured] = []

    def evaluate(averaged: Any, folder: Path, step: int) -> dict[str, float]:
        measured[:] = measured or [Measured(config.eval.judges, device)]
        return _evaluate(averaged, config, held_out, measured[0], folder, step)

    settings = config.model_dump(mode="json")
    stage = FirstStage(
        name=digest([settings | {"log": None, "eval": None}, training.digest])[:12],
        facts={"config": settings, "data": training.digest, "images": len(data), "precision": number, "steps": last},
        net=net,
        loss=loss,
        loader=lambda step: _loader(data, config, step),
        optimizers=optimizers,
        schedule=schedule,
        last=last,
        periods=Periods(
            batch,
            to_steps(config.log.every, batch, len(data)),
            to_steps(config.train.checkpoint_every, batch, len(data)),
            config.train.keep,
            config.log.sinks,
        ),
        seed=config.seed,
        ema_decay=config.train.ema_decay,
        ema_ramp=config.train.ema_ramp,
        grad_clip=config.train.grad_clip,
        critic=None if critic is None else Critic(critic, loss.of_critic, starts[0], optimizers, schedule),
        evaluate=evaluate,
        evaluate_every=to_steps(config.eval.every, batch, len(data)),
    )
    return stage, data


def _critic(seed: int, device: str) -> Discriminator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(initial_seed(seed, "critic"))
        return Discriminator(open_trunk()).to(device)


def _loader(data: Source, config: TokenizerConfig, step: int) -> Iterator[Batch]:
    return batches(
        data,
        seed=config.seed,
        batch_size=config.train.batch_size,
        first_step=step,
        rank=parallel.rank(),
        world=parallel.world_size(),
        workers=config.data.workers,
    )


def _evaluate(
    net: Tokenizer,
    config: TokenizerConfig,
    held_out: Mapping[str, Dataset],
    measured: Measured,
    folder: Path,
    step: int,
) -> dict[str, float]:
    """Measure a network on each source, and write the pictures of the first."""
    values: dict[str, float] = {}
    pictures = []
    for name, data in held_out.items():
        within = range(min(len(data), config.eval.num))
        found, rows = measured(
            lambda images: net.decode(net.encode(images)).float(),
            in_order(data, min(64, config.train.batch_size), config.data.workers, within),
        )
        values |= {f"{name}/{key}": value for key, value in found.items()}
        pictures.append(rows)
    save_pairs(pictures[0], folder, step, {"step": step, "rows": "images, then their reconstructions"})
    return values


@torch.no_grad()
def export(net: Tokenizer, data: Source, config: TokenizerConfig, folder: Path) -> dict[str, dict[str, Tensor]]:
    """Write the files of a trained network: weights, and the statistics of its latents on the training images.

    Returns:
        The tensors by file name.

    Raises:
        DataError: if a value of the latent never varies.
        RequestError: if they cannot be written.
    """
    statistics = Statistics()
    device = next(net.parameters()).device
    for batch in in_order(data, 256, config.data.workers):
        stored = batch.latent if batch.image is None else batch.image
        assert stored is not None
        statistics.add(net.encode(stored.to(device).float() / 255))
    files = net.exported() | {"stats.safetensors": statistics.finish()}
    parts = {"stats.safetensors": "statistics"}
    for name, tensors in files.items():
        path = folder / parts.get(name, name.removesuffix(".safetensors")) / name
        with write_errors(path):
            make_folder(path.parent)
            write_atomic(path, save({key: tensor.contiguous().cpu() for key, tensor in tensors.items()}))
    return files


def train_recipe(config: TokenizerConfig, folder: Path, device: str) -> nn.Module:
    """Train what a config describes, or continue, and write its files into `export`; every process calls it.

    Raises:
        UserError: for whatever is wrong with the request, before anything is written.
        NonFiniteLoss: if training diverges; the last checkpoint is intact.
    """
    with parallel.agreed():
        stage, data = build_stage(config, device)
    net = train_tokenizer(folder, stage).ema.module.net
    assert isinstance(net, Tokenizer)
    with parallel.agreed():
        if parallel.is_main():
            try:
                export(net, data, config, folder / "export")
            except DataError as error:
                raise DataError(f"{folder}: {error} The checkpoints are there.") from None
    return net
