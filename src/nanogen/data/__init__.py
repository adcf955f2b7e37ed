"""The base of data sets: sized maps from an index to an image and its condition. The table is `nanogen.datasets`.

A data set knows neither models nor steps; order and position are `order.py`'s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, is_dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class Example:
    """One training example.

    Attributes:
        image: uint8 [H, W, 3].
        label: its class, where the data set has classes.
        caption: its text, where the data set is captioned; at least one of the two is there.
        corrupt: the sentence about the sample that this one stands in for, or None (`corrupt.py`).
    """

    image: np.ndarray
    label: int | None = None
    caption: str | None = None
    corrupt: str | None = None


@dataclass(frozen=True)
class Component:
    """One of the sets that are mixed in a data set; its indices follow those of the component before.

    Attributes:
        size: images in it.
        weight: its share of the sequence, relative to the other components.
        blocks: sizes of runs of indices that are stored together, in order, or None where storage does not matter.
    """

    size: int
    weight: float = 1.0
    blocks: tuple[int, ...] | None = None


@dataclass(kw_only=True, eq=False)
class Dataset(ABC):
    """Base of all data sets; each can be pickled, as loader processes get a copy.

    Attributes:
        digest: SHA-256 that changes when the list of images or captions does.
        num_classes: number of classes, or None where examples have no label.
        classes: their names in the order of the labels, or None where unknown.
        captioned: whether every example has a caption.
        left_out: sentence about the files that are not read, or None.
        defects: sentences about samples known to be incomplete, at most 20; reading one raises DataError.
    """

    digest: str
    num_classes: int | None = None
    classes: tuple[str, ...] | None = None
    captioned: bool = False
    left_out: str | None = None
    defects: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Example:
        """Decode, crop and return one example; DataError if the image or its caption cannot be read; it is named."""

    def label(self, index: int) -> int | None:
        """Return the label of one example, where possible without decoding its image."""
        return self[index].label

    def caption(self, index: int) -> str | None:
        """Return the caption of one example without decoding its image, or None where it has none.

        Raises:
            DataError: if it cannot be read; it is named.
        """
        return None

    @property
    def components(self) -> tuple[Component, ...]:
        """Return how the indices lie (`plan.py`): one component without blocks, unless a data set says otherwise."""
        return (Component(len(self)),)


class Wrapped(Dataset):
    """Base of data sets that change the examples of another, neither their number nor their order."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(
            digest=dataset.digest, num_classes=dataset.num_classes, classes=dataset.classes, captioned=dataset.captioned
        )
        self.dataset = dataset

    @property
    def components(self) -> tuple[Component, ...]:
        return self.dataset.components

    def __len__(self) -> int:
        return len(self.dataset)


def locate(starts: np.ndarray, index: int) -> tuple[int, int]:
    """Return the number of the run of indices that holds an index, and the place in it; runs begin at `starts`."""
    number = int(starts.searchsorted(index, side="right")) - 1
    return number, index - int(starts[number])


@dataclass(frozen=True)
class Batch:
    """One micro-batch on its way to the device.

    Attributes:
        image: uint8 [B, 3, H, W], or None where `latent` is given.
        label: int64 [B], or None where the data has no classes.
        caption: B strings, or None where the data has no captions.
        positions: places of the examples in the global batch; noise and times depend on them, never on the rank.
        corrupt: a sentence for each example that stands in for a sample that cannot be read.
        latent: float32 [B, C, h, w], of data whose latents are cached (`memory.py`).
        noise: numbers of the step that were drawn ahead, see `nanogen.rng.PositionalNoise.drawn`.
        condition: where it was made ahead (`ahead.py`), a dataclass of tensors and plain values.
    """

    image: Tensor | None
    label: Tensor | None
    caption: list[str] | None
    positions: list[int]
    corrupt: tuple[str, ...] = ()
    latent: Tensor | None = None
    noise: dict[tuple[str, tuple[int, ...]], Tensor] = field(default_factory=dict)
    condition: Any = None

    def tensors(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return the same batch with each of its tensors changed."""

        def changed(value: Any) -> Any:
            # Torch is not imported here: what a stream can hold is a tensor.
            if hasattr(value, "record_stream"):
                return change(value)
            if isinstance(value, dict):
                return {key: changed(one) for key, one in value.items()}
            if is_dataclass(value) and not isinstance(value, type):
                return replace(value, **{name: changed(one) for name, one in vars(value).items()})
            return value

        return replace(self, **{name: changed(value) for name, value in vars(self).items()})

    def pin_memory(self) -> Batch:
        """Return the batch in memory from which a device copies while the host goes on; loaders call it."""
        return self.tensors(lambda tensor: tensor.pin_memory())
