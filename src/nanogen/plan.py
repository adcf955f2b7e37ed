"""What a training will cost, before it starts: parameters, operations, memory, time, disk and money. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from diffusionbench.axes import AXES
from diffusionbench.errors import ConfigError, RequestError, UserError
from diffusionbench.prompts import open_prompts
from diffusionbench.registry import nearest
from diffusionbench.writing import free_bytes
from nanogen import calibration, costs
from nanogen.calibration import Rates
from nanogen.config import Config, read_yaml, reload
from nanogen.datasets import DATASETS
from nanogen.resolve import Derived, prompt_choice, resolve
from nanogen.settings import NO_STEP, TrainConfig, due, steps_per_epoch, to_steps
from nanogen.text import open_spec


@dataclass(frozen=True)
class Device:
    """One kind of device: dense bfloat16 peak in operations a second, and bytes of memory, from its data sheet."""

    title: str
    peak: float
    memory: float


DEVICES: Final = {
    "h200": Device("H200", 989e12, 141e9),
    "h100": Device("H100", 989e12, 80e9),
    "a100": Device("A100", 312e12, 80e9),
    "a100-40": Device("A100 40 GB", 312e12, 40e9),
}
# Share of a peak that is assumed where nothing is measured and nobody says another.
UTILISATION: Final = 0.4
#: Relative error of the calibration above which it is asked for again; an idle machine stays well below.
DOUBTFUL: Final = 0.5


def peak(name: str, precision: str) -> float | None:
    """Return the operations a second that a device of this name is made for, or None where that is not known."""
    known = (device.peak for device in DEVICES.values() if device.title in name)
    return next(known, None) if precision == "bfloat16" else None


@dataclass(frozen=True)
class Machine:
    """What a training runs on.

    Attributes:
        devices: in all.
        per_node: of them in one machine, for train.shard=hybrid.
        name: of `DEVICES`; None: this machine as `nanogen bench --calibrate` measured it.
        memory: bytes of a device; None: as the data sheet or the calibration says.
        utilisation: share of the peak; None with `name`: `UTILISATION`.
        price: of a device for one hour, in any money.
        step_seconds: of a step of this training, measured here; None: as the data sheet or the calibration says.
    """

    devices: int = 1
    per_node: int = 8
    name: str | None = None
    memory: float | None = None
    utilisation: float | None = None
    price: float | None = None
    step_seconds: float | None = None

    @property
    def share(self) -> float:
        return UTILISATION if self.utilisation is None else self.utilisation

    def __post_init__(self) -> None:
        if self.name is not None and self.name not in DEVICES:
            raise RequestError(f"--device {self.name}: unknown. {nearest(self.name, list(DEVICES))}")
        if self.name is None and self.utilisation is not None:
            raise RequestError(
                "--utilisation is a share of the peak of a device, and this machine's is measured. Name one with "
                f"--device ({', '.join(DEVICES)}), or leave --utilisation out."
            )


HERE: Final = Machine()


@dataclass(frozen=True)
class Plan:
    """The costs of a training; what depends on what is not known is None.

    Attributes:
        parameters: that training changes.
        training_flops: operations of one image's training step.
        sampling_flops: operations of one image of an evaluation.
        devices: in all; `device` says which, and how their speed is known.
        micro_batch: images of one device at once.
        memory: of one device, by part, in bytes; `device_memory` is what it has.
        steps, images: of the training.
        images_per_second: over all devices.
        training_hours, evaluation_hours: of all devices at once.
        disk: bytes, by what takes them; `free` is what the disk of the runs has.
        money: at the price.
        remedies: what does not fit, and which setting makes it fit, one sentence each.
    """

    parameters: int
    training_flops: float
    sampling_flops: float
    devices: int
    device: str
    micro_batch: int
    memory: costs.Memory
    device_memory: float | None
    steps: int | None
    images: int | None
    images_per_second: float | None
    training_hours: float | None
    evaluation_hours: float | None
    disk: dict[str, float]
    free: float
    money: float | None
    remedies: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, with the totals."""
        found = asdict(self)
        found["memory"]["total"] = self.memory.total
        found["disk"]["total"] = sum(self.disk.values())
        return found

    def lines(self) -> list[str]:
        """Return three lines, and one for each thing that does not fit."""
        parts = ", ".join(f"{name} {_bytes(size)}" for name, size in vars(self.memory).items() if size)
        of = "" if self.device_memory is None else f" of {_bytes(self.device_memory)}"
        unknown = self.images_per_second is None
        speed = "time unknown" if unknown else f"{self.images_per_second:,.4g} images/s"
        hours = [("training", self.training_hours), ("evaluation", self.evaluation_hours)]
        spent = [f"{_hours(value)} of {name}" for name, value in hours if value]
        costs_ = [] if self.money is None else [f"money {self.money:,.2f}"]
        disk = f"disk {_bytes(sum(self.disk.values()))}"
        counted = "an unknown number of steps" if self.steps is None else f"{self.steps:,} steps"
        return [
            f"{self.parameters:,} parameters, {self.training_flops / 1e9:,.4g} GFLOP an image, {counted} on "
            f"{self.devices} x {self.device}",
            f"memory of a device: {_bytes(self.memory.total)}{of} ({parts})",
            ", ".join([speed, *spent, disk, *costs_])
            + ("; once `nanogen bench --calibrate` has measured this machine, its time is known" if unknown else ""),
            *self.remedies,
        ]


def _bytes(size: float) -> str:
    scale, unit = next((one for one in ((1e12, "TB"), (1e9, "GB")) if size >= one[0]), (1e6, "MB"))
    return f"{size / scale:,.3g} {unit}"


def _hours(hours: float) -> str:
    return f"{hours:,.3g} h" if hours >= 1 else f"{60 * hours:,.2g} min"


def read_config(run: Path) -> Config:
    """Return the config of a run folder; ConfigError if it holds none."""
    file = run / "config.yaml"
    try:
        return reload(read_yaml(file.read_text(), str(file)), str(file))
    except (OSError, UnicodeError):
        raise ConfigError(
            f"{run} is not a run folder: it has no config.yaml that can be read. Give a run folder, a config file, or "
            "--task."
        ) from None


def plan(
    config: Config,
    machine: Machine = HERE,
    *,
    num_images: int | None = None,
    text_tokens: int = 64,
    folder: Path = Path("outputs"),
) -> Plan:
    """Compute what a training costs.

    Args:
        num_images: in the data, for durations in epochs; None: unknown, unless the data set is embedded.
        text_tokens: mean length of a caption; memory is that of the longest.
        folder: on the disk of the runs.

    Raises:
        ConfigError: if the parts of the config do not fit each other, the batch the devices, or nothing is trained.
        DataError: if there are fewer images than one batch.
        RequestError: if the calibration cannot be read.
    """
    train, rates = config.train, _rates(config, machine)
    if train.batch_size % (machine.devices * train.accumulation):
        raise ConfigError(
            f"train.batch_size {train.batch_size} cannot be cut into {machine.devices} devices x "
            f"{train.accumulation} micro-batches of equal size. Change the batch size, the accumulation or --devices."
        )
    costed = _Costed(config, machine, resolve(config), rates, text_tokens)
    shape, num_images = costed.derived.shape, num_images or DATASETS[config.data.name].images
    if num_images is not None:
        steps_per_epoch(num_images, train.batch_size)
    steps, rate = costed.steps(train.duration, num_images), costed.images_per_second()
    if steps == 0:
        raise ConfigError(NO_STEP.format(train.duration))
    images = None if steps is None else steps * train.batch_size
    training = None if rate is None or images is None else images / rate / 3600
    counts = costed.evaluations(num_images, steps)
    evaluation, disk = costed.evaluation_hours(sum(counts)), costed.disk(num_images, counts)
    hours = None if training is None else training + (evaluation or 0)
    free = free_bytes(folder)
    return Plan(
        parameters=costs.num_trainable(config, shape),
        training_flops=costs.training_flops(config, shape, text_tokens),
        sampling_flops=costs.sampling_flops(config, costed.derived, text_tokens),
        devices=machine.devices,
        device=_described(machine, rates),
        micro_batch=train.batch_size // (machine.devices * train.accumulation),
        memory=costed.memory(train),
        device_memory=costed.device_memory,
        steps=steps,
        images=images,
        images_per_second=rate,
        training_hours=training,
        evaluation_hours=evaluation,
        disk=disk,
        free=free,
        money=None if hours is None or machine.price is None else hours * machine.devices * machine.price,
        remedies=(*costed.memory_remedies(), *_disk_remedies(sum(disk.values()), free)),
    )


def _rates(config: Config, machine: Machine) -> Rates | None:
    """Return the speed of a device: by its data sheet, or as this machine was measured, its accelerator first."""
    asked = config.train.precision
    if machine.name is None:
        found = [one for one in calibration.read() if asked in ("auto", one.precision)]
        same = [one for one in found if one.compile == config.train.compile] or found
        return min(same, key=lambda one: one.per_flop, default=None)
    device = DEVICES[machine.name]
    return Rates(
        device=device.title,
        kind="cuda",
        precision="bfloat16" if asked == "auto" else asked,
        compile=config.train.compile,
        threads=1,
        memory=int(device.memory),
        date="",
        commit=None,
        # Nothing but products takes time: the share of the peak stands for the rest.
        per_flop=1 / (machine.share * device.peak),
        per_byte=0,
        per_parameter=0,
        per_step=0,
        error=0,
    )


def _described(machine: Machine, rates: Rates | None) -> str:
    if machine.step_seconds is not None:
        return "this machine, by its first steps"
    if rates is None:
        return "this machine, which is not measured"
    if machine.name is not None:
        return f"{rates.device} at a stated {machine.share:.0%} of its peak"
    # Steps on a busy machine follow no four rates.
    again = "; measure again on an idle machine" if rates.error > DOUBTFUL else ""
    return f"this machine ({rates.device}, {rates.precision}), measured {rates.date} to within {rates.error:.0%}{again}"


def _disk_remedies(needed: float, free: float) -> Iterator[str]:
    if needed > free:
        yield (
            f"does not fit on the disk: {_bytes(needed)} are needed and {_bytes(free)} free. Set train.keep=1, leave "
            "caches out, or choose another disk (--run PATH)."
        )


@dataclass(frozen=True)
class _Costed:
    """The parts of `plan`."""

    config: Config
    machine: Machine
    derived: Derived
    rates: Rates | None
    text_tokens: int

    @property
    def kind(self) -> costs.Kind:
        """Of what the layers keep."""
        if self.rates is not None:
            return costs.kind(self.rates.precision, self.rates.kind)
        asked = self.config.train.precision
        return costs.kind("bfloat16" if asked == "auto" else asked, "cuda")

    @property
    def device_memory(self) -> float | None:
        if self.machine.memory is None and self.rates is not None:
            return self.rates.memory
        return self.machine.memory

    def memory(self, train: TrainConfig) -> costs.Memory:
        """Return the memory of one device under other settings of the training."""
        devices, condition = self.machine.devices, self.config.condition
        groups = {"none": 1, "full": devices, "hybrid": min(self.machine.per_node, devices)}
        longest = 0
        if self.derived.shape.text_width is not None:
            longest = min(condition.max_tokens, open_spec(condition.encoder).max_tokens)
        return costs.memory(
            self.config.model_copy(update={"train": train}),
            self.derived.shape,
            self.kind,
            images=train.batch_size // (devices * train.accumulation),
            text_tokens=longest,
            group=groups[train.shard],
        )

    def memory_remedies(self) -> Iterator[str]:
        """Say what makes a training fit that does not: the change that costs least time comes first."""
        size, needed = self.device_memory, self.memory(self.config.train).total
        if size is None or needed <= size:
            return
        found = f"does not fit: {_bytes(needed)} are needed and a device has {_bytes(size)}."
        for settings in self._smaller():
            total = self.memory(self.config.train.model_copy(update=settings)).total
            if total <= size:
                words = " ".join(f"train.{key}={value}" for key, value in settings.items())
                yield f"{found} With {words} it takes {_bytes(total)}."
                return
        yield f"{found} No setting makes it fit: more devices (--devices) with train.shard=full, or a smaller model."

    def _smaller(self) -> Iterator[dict[str, object]]:
        """Return settings that need less memory, in the order of what they cost in time."""
        train, devices = self.config.train, self.machine.devices
        whole = devices > 1 and train.shard == "none"
        shards: list[dict[str, object]] = [{}, {"shard": "full"}] if whole else [{}]
        largest = train.batch_size // devices
        for checkpointing in ({}, {"checkpointing": "block"}):
            for shard in shards:
                for accumulation in (n for n in range(train.accumulation, largest + 1) if largest % n == 0):
                    some = {} if accumulation == train.accumulation else {"accumulation": accumulation}
                    yield {**some, **shard, **checkpointing}

    def images_per_second(self) -> float | None:
        """Return the images of all devices in a second; they are taken to wait for nothing."""
        if self.machine.step_seconds is not None:
            return self.config.train.batch_size / self.machine.step_seconds
        if self.rates is None:
            return None
        shape, train = self.derived.shape, self.config.train
        # Where blocks are checkpointed they are computed a second time.
        images = train.batch_size // self.machine.devices * (4 / 3 if train.checkpointing != "none" else 1)
        flops = images * costs.training_flops(self.config, shape, self.text_tokens)
        kept = images * costs.activation_bytes(shape, self.kind, self.text_tokens)
        return train.batch_size / self.rates.seconds(flops, kept, costs.num_trainable(self.config, shape))

    def steps(self, duration: str, num_images: int | None) -> int | None:
        """Return the steps of a duration; None where it is never, or counts epochs of data that is not known."""
        if num_images is None and "epoch" in duration:
            return None
        return to_steps(duration, self.config.train.batch_size, num_images or 0)

    def evaluations(self, num_images: int | None, steps: int | None) -> list[int]:
        """Return the images of each evaluation of the training, in its order."""
        settings = self.config.eval
        if not settings.metrics or steps is None:
            return []
        count = settings.num_samples
        if count == "auto":
            try:
                choice = prompt_choice(self.config)
                prompts = None if choice is None else open_prompts(choice)
                count = AXES.load(settings.axis)().full_count(prompts)
            except UserError:
                # Its prompts are not here; the evaluation itself will say so.
                return []
        every = self.steps(settings.every, num_images)
        during = steps // every if every else 0
        return [count] * (during + (not due(steps, every)))

    def evaluation_hours(self, images: int) -> float | None:
        """Return the hours in which the devices draw so many images; they are not scored in them."""
        flops = images * costs.sampling_flops(self.config, self.derived, self.text_tokens) / self.machine.devices
        one = costs.training_flops(self.config, self.derived.shape, self.text_tokens)
        if self.machine.step_seconds is not None:
            return flops / one * self.machine.step_seconds / self.config.train.batch_size / 3600
        if self.rates is None:
            return None
        kept = costs.activation_bytes(self.derived.shape, self.kind, self.text_tokens)
        # What is not a product takes the same share of a forward pass as of a training step.
        return flops * (self.rates.per_flop + self.rates.per_byte * kept / one) / 3600

    def disk(self, num_images: int | None, evaluations: list[int]) -> dict[str, float]:
        """Return the bytes on disk by what takes them; images are counted as they are before compression."""
        config, shape = self.config, self.derived.shape
        # One more while it is written.
        found = {"checkpoints": (config.train.keep + 1) * costs.checkpoint_bytes(config, shape)}
        if config.latent.cache is not None and num_images:
            found["latents"] = 2.0 * num_images * math.prod(shape.latent_shape)
        if config.condition.cache is not None and num_images and shape.text_width is not None:
            found["text states"] = 2.0 * num_images * self.text_tokens * shape.text_width
        if evaluations:
            kept = config.eval.num_kept
            # Those that go do so once they are scored.
            images = sum(evaluations) if kept is None else max(evaluations) + sum(min(kept, one) for one in evaluations)
            found["evaluations"] = 3.0 * images * config.data.image_size**2
        return found
