"""Conditions that are classes: a label per image, 0..num_classes - 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffusionbench.errors import ConfigError, RequestError
from diffusionbench.shown import few
from nanogen.conditions import Conditioner, SampleSpec, Settings, parse_labels
from nanogen.model.condition import ClassCondition

if TYPE_CHECKING:
    from nanogen.data import Dataset

# Columns of a grid: one per class where there are ten.
COLUMNS = 10


class ClassConditioner(Conditioner):
    """Maps labels to `ClassCondition`."""

    def __init__(self, settings: Settings, device: str) -> None:
        super().__init__(settings, device)
        self.num_classes: int = settings["num_classes"]

    @staticmethod
    def infer_from_data(settings: Settings, data: Dataset) -> dict[str, Any]:
        """Count the classes where the config says auto.

        Raises:
            ConfigError: if the data has no classes, or more than the config says.
        """
        asked, found = settings["num_classes"], data.num_classes
        if found is None:
            raise ConfigError(
                "condition.kind is class, and the data has no labels. Set condition.kind=text or use others."
            )
        if asked != "auto" and found > asked:
            raise ConfigError(
                f"condition.num_classes is {asked}, and the data has {found} classes. "
                "Set condition.num_classes=auto or use other data."
            )
        return {**settings, "num_classes": found if asked == "auto" else asked}

    def __call__(self, labels: Sequence[int | None] | Tensor | None, captions: Sequence[str] | None) -> ClassCondition:
        """Check and move labels; RequestError if a label is missing or lies outside 0..num_classes - 1.

        A tensor of labels is of a batch, whose data was checked: nothing waits for a device.
        """
        if isinstance(labels, Tensor):
            return ClassCondition(labels.to(self.device, non_blocking=True), self.num_classes)
        given = list(labels or [])
        wrong = sorted({str(label) for label in given if label is None or not 0 <= label < self.num_classes})
        if wrong or not given:
            found = few(wrong) or "none"
            raise RequestError(f"class labels must be whole numbers in 0..{self.num_classes - 1}, found: {found}.")
        return ClassCondition(torch.tensor(given, device=self.device), self.num_classes)

    def parse_specs(self, labels: str, prompts: Sequence[str]) -> list[SampleSpec]:
        if prompts:
            raise RequestError(
                f"prompt '{prompts[0]}' was given, and this network draws classes 0..{self.num_classes - 1}. "
                "Use --labels, or a run that was trained on captions."
            )
        return [self._spec(label) for label in parse_labels(labels, self.num_classes)]

    def examples(self, data: Dataset, num: int) -> list[SampleSpec]:
        """Return the first ten classes in turn, one a column."""
        return [self._spec(index % COLUMNS % self.num_classes) for index in range(num)]

    def _spec(self, label: int) -> SampleSpec:
        return SampleSpec(label=label, folder=f"{label:0{len(str(self.num_classes - 1))}d}")
