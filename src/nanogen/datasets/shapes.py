"""The procedural captioned world: SimpleEval's rendered shapes, drawn as they are asked for.

Scenes come from their own seed, never from a prompt set's, and the held-out compositions are never among them.
A caption has many pictures: its facts stay, everything it does not say about the picture's layout is drawn anew.

Source: docs/simpleeval.md, "shapes world".
"""

from __future__ import annotations

from functools import lru_cache

from diffusionbench.benchmarks.simpleeval import renderer
from diffusionbench.benchmarks.simpleeval.shapes_facts import OBJECTS
from diffusionbench.errors import DataError
from diffusionbench.schema import digest
from nanogen.data import Dataset, Example

SEED = "shapes-train"
# Distinct scenes with their captions, and pictures of each: an encoder reads every caption once, and the latents of
# all pictures can be kept.
CAPTIONS = 8192
PICTURES = 2
SIZES = (24, 32, 64, 128)


class Shapes(Dataset):
    """Rendered scenes by index; index = picture * CAPTIONS + caption.

    Args:
        image_size: side in pixels: 24, 32, 64 or 128.
    """

    captioned = True

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size
        self.digest = digest(["shapes", SEED, CAPTIONS, PICTURES, image_size])

    def __len__(self) -> int:
        return CAPTIONS * PICTURES

    def caption(self, index: int) -> str:
        return _scene(index % CAPTIONS)[0]

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        picture, place = divmod(index, CAPTIONS)
        caption, scene = _scene(place)
        return Example(
            renderer.render(dict(scene), SEED, f"picture/{place}/{picture}", self.image_size), caption=caption
        )


class Objects(Dataset):
    """The pictures of `Shapes` that show one object, with its colour and shape as their class instead of a caption.

    Args:
        image_size: as of `Shapes`.
    """

    num_classes = len(OBJECTS)
    classes = tuple(f"{colour} {shape}" for colour, shape in OBJECTS)

    def __init__(self, image_size: int) -> None:
        self._shapes = Shapes(image_size)
        self._indices, self._labels = _single_objects()
        self.digest = digest(["objects", self._shapes.digest])

    def __len__(self) -> int:
        return len(self._indices)

    def label(self, index: int) -> int:
        return self._labels[index]

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return Example(self._shapes[self._indices[index]].image, label=self._labels[index])


@lru_cache(maxsize=1)
def _single_objects() -> tuple[list[int], list[int]]:
    """Return the indices among `Shapes` of the pictures of one object, and their classes."""
    scenes = [dict(_scene(place)[1]) for place in range(CAPTIONS)]
    single = {
        place: OBJECTS.index((scene["colour1"], scene["shape1"]))
        for place, scene in enumerate(scenes)
        if "shape2" not in scene and scene["count1"] == "one"
    }
    indices = [picture * CAPTIONS + place for picture in range(PICTURES) for place in single]
    return indices, [single[index % CAPTIONS] for index in indices]


@lru_cache(maxsize=CAPTIONS)
def _scene(place: int) -> tuple[str, tuple[tuple[str, str], ...]]:
    _, caption, scene = renderer.training_scene(SEED, place)
    return caption, tuple(scene.items())


def open_shapes(path: None, image_size: int, split: str) -> Shapes:
    """Return the training pictures of the procedural world.

    Raises:
        DataError: if another split or a size that is not rendered is asked for.
    """
    _check("shapes", image_size, split)
    return Shapes(image_size)


def open_objects(path: None, image_size: int, split: str) -> Objects:
    """Return those of one object, by class; errors as of `open_shapes`."""
    _check("objects", image_size, split)
    return Objects(image_size)


def _check(name: str, image_size: int, split: str) -> None:
    if split != "train":
        raise DataError(f"data set '{name}' has no split '{split}'. Allowed: train.")
    if image_size not in SIZES:
        raise DataError(
            f"data set '{name}' is drawn at {', '.join(map(str, SIZES))} pixels, data.image_size is {image_size}."
        )
