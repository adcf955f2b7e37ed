"""A source of images that is opened by name: "painter:200" paints the colour that is asked for with strength 200."""

import numpy as np

from diffusionbench.errors import RequestError
from diffusionbench_colours import NAMES


def open_painter(argument):
    """Return a function of labels or prompts that paints with a strength in 1..255."""
    if not argument.isdecimal() or not 1 <= int(argument) <= 255:
        raise RequestError(f"painter:{argument}: expected a strength from 1 to 255, such as painter:200.")

    def paint(labels=None, prompts=None):
        channels = labels or [next(place for place, name in enumerate(NAMES) if name in text) for text in prompts]
        images = np.zeros((len(channels), 8, 8, 3), np.uint8)
        images[np.arange(len(channels)), :, :, channels] = int(argument)
        return images

    return paint
