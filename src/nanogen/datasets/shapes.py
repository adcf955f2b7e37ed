"""The procedural captioned world: SimpleEval's rendered shapes, drawn as they are asked for.

Scenes come from their own seed, never from a prompt set's, and the held-out compositions are never among them.
A caption has many pictures: its facts stay, everything it does not say about the picture's layout is drawn anew.

Source: docs/simpleeval.md, "shapes world".
"""

from __future__ import annotations

from functools import lru_cache

from diffusionbench.benchmarks.simpleeval import renderer
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


@lru_cache(maxsize=CAPTIONS)
def _scene(place: int) -> tuple[str, tuple[tuple[str, str], ...]]:
    caption, scene = renderer.training_scene(SEED, place)
    return caption, tuple(scene.items())


def open_shapes(path: None, image_size: int, split: str) -> Shapes:
    """Return the training pictures of the procedural world.

    Raises:
        DataError: if another split or a size that is not rendered is asked for.
    """
    if split != "train":
        raise DataError(f"data set 'shapes' has no split '{split}'. Allowed: train.")
    if image_size not in SIZES:
        raise DataError(
            f"data set 'shapes' is drawn at {', '.join(map(str, SIZES))} pixels, data.image_size is {image_size}."
        )
    return Shapes(image_size)
