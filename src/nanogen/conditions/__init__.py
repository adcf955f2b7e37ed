"""The table of condition kinds: how classes or captions become the condition of a network.

To add a kind: one file with a subclass of `Conditioner`, and one row in `CONDITIONS`. Loop, sampler and evaluation
do not ask which kind they serve. Conditions as tensors, and how they become tokens, are in `nanogen.model`. Rows are
read without torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from diffusionbench import bounds
from diffusionbench.errors import ConfigError, RequestError
from diffusionbench.registry import Table
from diffusionbench.shown import few
from nanogen.text import open_spec

if TYPE_CHECKING:
    from torch import Tensor

    from nanogen.data import Dataset
    from nanogen.model.condition import Condition

Settings = Mapping[str, Any]
"""The `condition` section of a config as plain values."""


@dataclass(frozen=True)
class SampleSpec:
    """The class or caption that one image is to show.

    Attributes:
        folder: where images of it belong below an output folder.
    """

    label: int | None = None
    caption: str | None = None
    folder: str = ""


@dataclass(frozen=True, kw_only=True)
class ConditionKind:
    """One kind of condition.

    Attributes:
        title: one line for users.
        load: "module:Class" of its `Conditioner`, constructed as `kind(settings, device)`.
        shape: maps settings to the arguments of `nanogen.model.shape.Shape` that they decide.
        answers: the requests of the benchmark that it can serve; None where an axis of its own decides.
    """

    title: str
    load: str
    shape: Callable[[Settings], dict[str, Any]]
    answers: Literal["classes", "prompts"] | None = None


class Conditioner(ABC):
    """Maps the labels or captions of a batch or a request to a condition on a device.

    Args:
        settings: the `condition` section of a config.
        device: where conditions go.
    """

    def __init__(self, settings: Settings, device: str) -> None:
        self.device = device

    @staticmethod
    @abstractmethod
    def infer_from_data(settings: Settings, data: Dataset) -> dict[str, Any]:
        """Return the settings with the numbers that are counted in the data.

        Raises:
            ConfigError: if the data has no labels or captions, as this kind needs them.
        """

    @property
    def digest(self) -> str:
        """SHA-256 of the frozen weights that make conditions, or "" without any."""
        return ""

    @abstractmethod
    def __call__(self, labels: Sequence[int | None] | Tensor | None, captions: Sequence[str] | None) -> Condition:
        """Return the condition of B images; RequestError if labels or captions are missing or out of range."""

    @abstractmethod
    def parse_specs(self, labels: str, prompts: Sequence[str]) -> list[SampleSpec]:
        """Return one spec per class or caption that a user asks for; all there are where both are empty.

        Args:
            labels: classes such as "0-9" or "3,5,7".
            prompts: captions.

        Raises:
            RequestError: if they are of another kind, out of range, or none.
        """

    @abstractmethod
    def examples(self, data: Dataset, num: int) -> list[SampleSpec]:
        """Return the classes or captions of the sample grids of a training."""

    def mean_tokens(self, data: Dataset) -> float | None:
        """Return the mean length of the data's first captions in states of their encoder; None without captions."""
        return None

    def notes(self) -> list[str]:
        """Return warnings about the conditions made since the last call, one sentence each."""
        return []


def parse_labels(text: str, num_classes: int | None = None) -> list[int]:
    """Return the classes in "0-9", "3,5,7" or "0-2,7"; all classes where the text is empty.

    Args:
        num_classes: None where the network is not known yet: any class that a network can have is allowed.

    Raises:
        RequestError: if the text is not that, or a class is outside the range.
    """
    labels: list[int] = []
    for part in text.split(",") if text else ():
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise RequestError(f"labels '{text}': expected classes such as 0-9 or 3,5,7.")
        ends = [first, last if dash else first]
        # The length first: an integer of thousands of digits is refused by Python itself.
        if any(len(end) > len(str(bounds.CLASSES)) or int(end) >= bounds.CLASSES for end in ends):
            raise RequestError(f"labels '{part.strip()}': classes are numbers below {bounds.CLASSES:,}.")
        span = range(int(ends[0]), int(ends[1]) + 1)
        if (named := len(labels) + len(span)) > bounds.CLASSES:
            raise RequestError(f"labels '{text}' name {named:,} classes or more; {bounds.CLASSES:,} are allowed.")
        labels += span
    if num_classes is None:
        return labels
    if not text:
        return list(range(num_classes))
    wrong = [label for label in labels if label >= num_classes]
    if wrong or not labels:
        found = few(wrong) or f"no class in '{text}'"
        raise RequestError(f"labels must lie in 0..{num_classes - 1}, found {found}.")
    return labels


def _class_shape(settings: Settings) -> dict[str, Any]:
    if settings["num_classes"] == "auto":
        raise ConfigError(
            "condition.num_classes is auto, so the network is known only once the data is read. "
            "Set condition.num_classes=N to see it now."
        )
    return {"num_classes": settings["num_classes"]}


CONDITIONS = Table(
    "condition kind",
    {
        "class": ConditionKind(
            title="one class per image",
            load="nanogen.conditions.classes:ClassConditioner",
            shape=_class_shape,
            answers="classes",
        ),
        "text": ConditionKind(
            title="a caption per image, through a frozen text encoder",
            load="nanogen.conditions.captions:TextConditioner",
            shape=lambda settings: {"text_width": open_spec(settings["encoder"]).width},
            answers="prompts",
        ),
    },
    group="nanogen.conditions",
)
