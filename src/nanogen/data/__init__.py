"""The table of data sets and what one data set is: a sized map from an index to one image and its condition.

To add a data set: one file here with an opener, and one line in `DATASETS`. A data set knows neither models nor
steps; order and position are `order.py`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from diffusionbench.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

DATASETS = Registry(
    "data set",
    {
        "digits": "nanogen.data.digits:open_digits",
        "shapes": "nanogen.data.shapes:open_shapes",
        "imagefolder": "nanogen.data.images:open_folder",
        "captionfolder": "nanogen.data.captions:open_captioned",
        "tars": "nanogen.data.tars:open_tars",
        "parquet": "nanogen.data.tables:open_parquet",
        "arrow": "nanogen.data.tables:open_arrow",
    },
    group="nanogen.datasets",
)


@dataclass(frozen=True)
class Item:
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


class Dataset(Protocol):
    """What an opener returns; an opener takes `path` (or None), `image_size` in pixels and `split` ("train").

    Attributes:
        num_classes: number of classes, or None where items have no label.
        classes: their names in the order of the labels, or None where unknown.
        captioned: whether every item has a caption.
        digest: SHA-256 that changes when the list of images or captions does.

    A set whose storage or mixture matters to the order also has `parts` (`plan.py`).
    """

    @property
    def num_classes(self) -> int | None: ...

    @property
    def classes(self) -> tuple[str, ...] | None: ...

    @property
    def captioned(self) -> bool: ...

    @property
    def digest(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Item:
        """Decode, crop and return one example.

        Raises:
            DataError: if the image or its caption cannot be read; it is named.
        """
        ...

    def caption(self, index: int) -> str | None:
        """Return the caption of one example without decoding its image, or None where it has none.

        Raises:
            DataError: if it cannot be read; it is named.
        """
        ...


@dataclass(frozen=True)
class Batch:
    """One micro-batch on its way to the device.

    Attributes:
        image: uint8 [B, 3, H, W], or None where `latent` is given.
        label: int64 [B], or None where the data has no classes.
        caption: B strings, or None where the data has no captions.
        positions: places of the items in the global batch; noise and times depend on them, never on the rank.
        corrupt: a sentence for each item that stands in for a sample that cannot be read.
        latent: float32 [B, C, h, w], of data whose latents are kept (`memory.py`).
    """

    image: Tensor | None
    label: Tensor | None
    caption: list[str] | None
    positions: list[int]
    corrupt: tuple[str, ...] = ()
    latent: Tensor | None = None
