"""Shapes and colours of the `shapes` world, and the classes of its scenes of one object; imports nothing."""

from __future__ import annotations

from typing import Final

SHAPES: Final = ("circle", "square", "triangle", "plus", "ring", "star")
COLOURS: Final = {
    "red": (214, 39, 40),
    "orange": (242, 142, 20),
    "yellow": (236, 222, 40),
    "green": (38, 158, 60),
    "cyan": (40, 200, 210),
    "blue": (45, 80, 212),
    "purple": (132, 58, 192),
    "pink": (244, 120, 190),
}
#: Never rendered for training, so that the report can tell composition from recall.
HELD_OUT: Final = frozenset(
    {("yellow", "ring"), ("purple", "star"), ("cyan", "triangle"), ("pink", "square"), ("orange", "plus")}
)
#: What a scene of one object is asked for by: a colour and a shape, in the order of the labels.
OBJECTS: Final = tuple((colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in HELD_OUT)
