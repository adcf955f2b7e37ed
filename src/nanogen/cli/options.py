"""Options that several verbs share, and what is made of their words."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffusionbench import bounds
from diffusionbench.errors import CheckpointError, ConfigError
from diffusionbench.shown import clipped

if TYPE_CHECKING:
    from nanogen.config import ComposedConfig

Task = Annotated[str | None, typer.Option("--task", help="what: data and condition; see `nanogen ls tasks`")]
Method = Annotated[str | None, typer.Option("--method", help="how: latent space, objective, losses")]
Scale = Annotated[str | None, typer.Option("--scale", help="how big: laptop, single-gpu or paper")]
DataPath = Annotated[str | None, typer.Option("--data", help="file or folder of your images")]
Words = Annotated[list[str] | None, typer.Argument(help="config file and overrides, such as my.yaml optim.lr=1e-3")]
RunFolder = Annotated[Path, typer.Argument(help="a run folder")]
Overrides = Annotated[list[str] | None, typer.Argument(help="overrides of sampler.*, guidance.* and eval.*")]
Json = Annotated[bool, typer.Option("--json", help="print JSON and nothing else")]
# A scale below 1 is refused by the config, which says why.
GuidanceScale = Annotated[
    float | None,
    typer.Option("--guidance", max=bounds.GUIDANCE, callback=bounds.number, help="classifier-free scale; 1 is off"),
]
Step = Annotated[
    int | None, typer.Option(min=0, max=bounds.DURATION, help="of a checkpoint that is kept; default: the newest")
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, max=bounds.SEED, help="of the noise")]


@dataclass(frozen=True)
class NetworkOptions:
    """The options by which a network is chosen."""

    words: Words = None
    task: Task = None
    method: Method = None
    scale: Scale = None

    def compose(self, data: str | None = None) -> ComposedConfig:
        """Return the config of the options.

        Args:
            data: what `--data` names.

        Raises:
            ConfigError: see `nanogen.config.compose`, or for more than one config file.
        """
        from nanogen.config import compose
        from nanogen.data.detect import detect

        names = [word for word in self.words or [] if "=" not in word]
        overrides = [word for word in self.words or [] if "=" in word]
        if len(names) > 1:
            raise ConfigError(f"expected at most one config file, found {', '.join(names)}. Overrides are key=value.")
        if data is not None:
            place = Path(data)
            if data.startswith("hf:"):
                from nanogen.hub import data_of

                name, place = data_of(data)
                data = str(name)
            overrides = [f"data.name={detect(place)}", f"data.path={json.dumps(data)}", *overrides]
        return compose(self.task, self.method, self.scale, Path(names[0]) if names else None, overrides)


@dataclass(frozen=True)
class TrainingOptions(NetworkOptions):
    """The options by which a training is chosen: a network and its data."""

    data: DataPath = None

    def compose(self, data: str | None = None) -> ComposedConfig:
        """See `NetworkOptions.compose`."""
        return super().compose(data or self.data)


def parse_part(text: str) -> tuple[int, int]:
    """Return i and n of "i/n"; ConfigError unless 1 <= i <= n."""
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ConfigError(f"--part {clipped(text, 40)}: give i/n with 1 <= i <= n, such as 3/64.")
    return int(found[1]), int(found[2])


def with_options(overrides: list[str] | None, options: dict[str, Any]) -> list[str]:
    """Return overrides and those that options stand for.

    Args:
        options: value by the key of the config, None where the option was not given.

    Raises:
        ConfigError: if an override is of the key of an option.
    """
    given = {key: value for key, value in options.items() if value is not None}
    for override in overrides or ():
        key = override.partition("=")[0].strip()
        if key in given:
            raise ConfigError(f"'{override}' was given, and an option that sets {key} too. Leave one of them out.")
    return [*(overrides or []), *(f"{key}={value}" for key, value in given.items())]


def check_use_of_run(run: Path, overrides: list[str]) -> Path:
    """Return where a run lies, `hf:OWNER/NAME` fetched; refuse what can be refused without the seconds torch takes."""
    from nanogen import hub
    from nanogen.config import check_overrides

    check_overrides(overrides)
    if hub.is_hub(run):
        return hub.weights_of(str(run))
    if not run.exists():
        raise CheckpointError(
            f"{run} is not a run folder: it does not exist. Give the folder that `nanogen train` wrote, such as "
            "outputs/demo."
        )
    return run
