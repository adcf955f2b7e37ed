"""The table of condition kinds and what one is: from classes or captions to what the network is told.

To add a kind: one file here with a `ConditionKind`, and one line in `CONDITIONS`. The loop, the sampler and the
evaluation never ask which kind they serve. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from diffusionbench.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from nanogen.data import Dataset
    from nanogen.model.condition import Condition

CONDITIONS = Registry(
    "condition kind",
    {
        "class": "nanogen.conditions.classes:CLASS",
        "text": "nanogen.conditions.captions:TEXT",
    },
    group="nanogen.conditions",
)

Settings = Mapping[str, Any]
"""The `condition` section of a config as plain values."""


@dataclass(frozen=True)
class Ask:
    """What one image shall show: a class or a caption.

    Attributes:
        folder: where images of it belong below an output folder.
    """

    label: int | None = None
    caption: str | None = None
    folder: str = ""


class Conditioner(Protocol):
    """Turns what a batch or a request carries into a condition on a device."""

    @property
    def digest(self) -> str:
        """SHA-256 of whatever beside the network decides what a condition means, or ""."""
        ...

    def __call__(self, labels: Sequence[int | None] | Tensor | None, captions: Sequence[str] | None) -> Condition:
        """The condition of B images.

        Raises:
            RequestError: if what this kind needs is missing or out of range.
        """
        ...

    def asks(self, labels: str, prompts: Sequence[str]) -> list[Ask]:
        """Return what a user asked for; everything there is to ask for where both are empty.

        Args:
            labels: classes such as "0-9" or "3,5,7".
            prompts: captions.

        Raises:
            RequestError: if it is of another kind, out of range, or nothing.
        """
        ...

    def examples(self, data: Dataset, num: int) -> list[Ask]:
        """Return what the sample grids of a training show."""
        ...

    def notes(self) -> list[str]:
        """Return what a user should know of the conditions made since the last call, one sentence each."""
        ...


@dataclass(frozen=True, kw_only=True)
class ConditionKind:
    """What a kind of condition is, readable without torch or weights.

    Attributes:
        fit: settings and data to the settings with what is counted in the data.
        shape: settings to the arguments of `nanogen.model.shape.Shape` that they decide.
        create: settings and device to a conditioner.
        title: one line for people.
        answers: what an axis of the benchmark may ask of a network with it; None where an axis of its own knows.
    """

    fit: Callable[[Settings, Dataset], dict[str, Any]]
    shape: Callable[[Settings], dict[str, int]]
    create: Callable[[Settings, str], Conditioner]
    title: str
    answers: Literal["classes", "prompts"] | None = None
