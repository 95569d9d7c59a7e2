"""Random changes that leave the class as it is: what is drawn for each image of a batch.

`tinymnv1.ops.crop_flip` carries it out; a batch goes through one of the recipes in `AUGMENTATIONS`. So

    crop_flip(images, *AUGMENTATIONS["crop-flip"](len(images), height, rng))

shows what a network in training sees.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tinymnv1.errors import ConfigError
from tinymnv1.ops.window import Array


class Changes(NamedTuple):
    """What happens to each of N images.

    top, left: (N,) integers, by how many pixels the window into it moves; what comes in from outside is black.
    flip: (N,) bool, whether it is mirrored left to right then.
    """

    top: Array
    left: Array
    flip: Array


def draw_changes(count: int, rng: np.random.Generator, margin: int = 0, flip: bool = False) -> Changes:
    """Changes of `count` images: each moves by up to `margin` pixels in both directions, any of these moves as likely
    as another, and with flip is mirrored with probability 1/2. Raises ConfigError if margin is below 0.
    """
    if margin < 0:
        raise ConfigError(f"margin must be at least 0, got {margin}")
    top, left = rng.integers(0, 2 * margin + 1, (2, count)) - margin  # draws nothing from rng if margin is 0
    mirrored = rng.random(count) < 0.5 if flip else np.zeros(count, bool)
    return Changes(top, left, mirrored)


# Each takes the number of images, their height in pixels, and a Generator.
AUGMENTATIONS: dict[str, Callable[[int, int, np.random.Generator], Changes]] = {
    "none": lambda count, height, rng: draw_changes(count, rng),
    "flip": lambda count, height, rng: draw_changes(count, rng, flip=True),
    # by up to an eighth of the height: 4 pixels of 32
    "crop-flip": lambda count, height, rng: draw_changes(count, rng, height // 8, flip=True),
}
