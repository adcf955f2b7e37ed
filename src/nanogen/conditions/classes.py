"""Conditions that are classes: a label per image, 0..num_classes - 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from diffusionbench import bounds
from diffusionbench.errors import ConfigError, RequestError
from diffusionbench.shown import few
from nanogen.conditions import Ask, ConditionKind, Settings

if TYPE_CHECKING:
    from torch import Tensor

    from nanogen.data import Dataset
    from nanogen.model.condition import ClassCondition

# Columns of a grid: one per class where there are ten.
COLUMNS = 10


def fit(settings: Settings, data: Dataset) -> dict[str, Any]:
    """Count the classes where the config says auto.

    Raises:
        ConfigError: if the data has no classes, or more than the config says.
    """
    asked, found = settings["num_classes"], data.num_classes
    if found is None:
        raise ConfigError("condition.kind is class, and the data has no labels. Set condition.kind=text or use others.")
    if asked == "auto":
        return {**settings, "num_classes": found}
    if found > asked:
        raise ConfigError(
            f"condition.num_classes is {asked}, and the data has {found} classes. "
            "Set condition.num_classes=auto or use other data."
        )
    return dict(settings)


def shape(settings: Settings) -> dict[str, int]:
    """Return the network's number of classes.

    Raises:
        ConfigError: if it is not counted yet.
    """
    if settings["num_classes"] == "auto":
        raise ConfigError(
            "condition.num_classes is auto, so the network is known only once the data is read. "
            "Set condition.num_classes=N to see it now."
        )
    return {"num_classes": settings["num_classes"]}


def label_spans(text: str) -> list[range]:
    """Spans of classes from "0-9", "3,5,7" or "0-2,7", none for an empty text; no network is needed to refuse others.

    Raises:
        RequestError: if the text is not that, or names more classes than any network has or more than fit in memory.
    """
    spans = []
    for part in text.split(",") if text else ():
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise RequestError(f"labels '{text}': expected classes such as 0-9 or 3,5,7.")
        ends = [first, last if dash else first]
        # The length first: an integer of thousands of digits is refused by Python itself.
        if any(len(end) > len(str(bounds.CLASSES)) or int(end) >= bounds.CLASSES for end in ends):
            raise RequestError(f"labels '{part.strip()}': classes are numbers below {bounds.CLASSES:,}.")
        spans.append(range(int(ends[0]), int(ends[1]) + 1))
    if (named := sum(map(len, spans))) > bounds.CLASSES:
        raise RequestError(f"labels '{text}' name {named:,} classes; {bounds.CLASSES:,} are allowed.")
    return spans


def parse_labels(text: str, num_classes: int) -> list[int]:
    """Classes from "0-9", "3,5,7" or "0-2,7"; all classes where empty.

    Raises:
        RequestError: if the text is not that or a class is outside the range.
    """
    if not text:
        return list(range(num_classes))
    labels = [label for span in label_spans(text) for label in span]
    wrong = [label for label in labels if label >= num_classes]
    if wrong or not labels:
        found = few(wrong) or f"no class in '{text}'"
        raise RequestError(f"labels must lie in 0..{num_classes - 1}, found {found}.")
    return labels


class ClassConditioner:
    """Labels to `ClassCondition`.

    Args:
        num_classes: classes without the null class.
        device: where the labels go.
    """

    digest = ""

    def __init__(self, num_classes: int, device: str) -> None:
        self.num_classes = num_classes
        self.device = device

    def __call__(self, labels: Sequence[int | None] | Tensor | None, captions: Sequence[str] | None) -> ClassCondition:
        """Check and move labels.

        Raises:
            RequestError: if a label is missing or lies outside 0..num_classes - 1.
        """
        import torch

        from nanogen.model.condition import ClassCondition

        given = labels.tolist() if isinstance(labels, torch.Tensor) else list(labels or [])
        wrong = sorted({str(label) for label in given if label is None or not 0 <= label < self.num_classes})
        if wrong or not given:
            found = few(wrong) or "none"
            raise RequestError(f"class labels must be whole numbers in 0..{self.num_classes - 1}, found: {found}.")
        return ClassCondition(torch.tensor(given, device=self.device), self.num_classes)

    def asks(self, labels: str, prompts: Sequence[str]) -> list[Ask]:
        """See `Conditioner.asks`."""
        if prompts:
            raise RequestError(
                f"prompt '{prompts[0]}' was given, and this network draws classes 0..{self.num_classes - 1}. "
                "Use --labels, or a run that was trained on captions."
            )
        return [self._ask(label) for label in parse_labels(labels, self.num_classes)]

    def examples(self, data: Dataset, num: int) -> list[Ask]:
        """Return the first ten classes in turn, one a column."""
        return [self._ask(place % COLUMNS % self.num_classes) for place in range(num)]

    def notes(self) -> list[str]:
        """Nothing: a label says all there is."""
        return []

    def _ask(self, label: int) -> Ask:
        return Ask(label=label, folder=f"{label:0{len(str(self.num_classes - 1))}d}")


CLASS = ConditionKind(
    title="one class per image",
    answers="classes",
    fit=fit,
    shape=shape,
    create=lambda settings, device: ClassConditioner(shape(settings)["num_classes"], device),
)
