"""The table of axes: an axis turns a request into the samples to generate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from diffusionbench.registry import Table


@dataclass(frozen=True, kw_only=True)
class AxisSpec:
    """One row of `AXES`.

    Attributes:
        name: its key in the table.
        title: what is asked for, in a few words.
        asks: what it asks a generator for, and so how images that exist already are told apart: by the classes of a
            folder or archive, by the file names of a prompt set, or by the names of the originals.
        load: "module:Class" of its `Axis`.
    """

    name: str
    title: str
    asks: Literal["classes", "prompts", "originals"] = "classes"
    load: str


CLASS_CONDITIONAL: Final = AxisSpec(
    name="class_conditional",
    title="images of given classes, as of ImageNet",
    load="diffusionbench.axes.axis:ClassConditional",
)
T2I: Final = AxisSpec(
    name="t2i",
    title="images of the texts of a prompt set",
    asks="prompts",
    load="diffusionbench.axes.axis:TextToImage",
)
RECONSTRUCTION: Final = AxisSpec(
    name="reconstruction",
    title="reconstructions of given images, by the names of their files",
    asks="originals",
    load="diffusionbench.axes.axis:Reconstruction",
)

_ROWS: Final = (CLASS_CONDITIONAL, T2I, RECONSTRUCTION)
AXES: Final = Table("axis", {row.name: row for row in _ROWS}, group="diffusionbench.axes")
