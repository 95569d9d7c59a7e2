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

    top, left: (N,) integers, by how many pixels the window into it moves.
    flip: (N,) bool, whether it is mirrored left to right then.
    reflect: whether what comes in from outside is the image's mirror image; else it is black.
    """

    top: Array
    left: Array
    flip: Array
    reflect: bool


def draw_changes(
    count: int, rng: np.random.Generator, margin: int = 0, flip: bool = False, reflect: bool = False
) -> Changes:
    """Changes of `count` images: each moves by up to `margin` pixels in both directions, any of these moves as likely
    as another, and with flip is mirrored with probability 1/2. Raises ConfigError if margin is below 0.
    """
    if margin < 0:
        raise ConfigError(f"margin must be at least 0, got {margin}")
    top, left = rng.integers(0, 2 * margin + 1, (2, count)) - margin  # draws nothing from rng if margin is 0
    mirrored = rng.random(count) < 0.5 if flip else np.zeros(count, bool)
    return Changes(top, left, mirrored, reflect)


# Each takes the number of images, their height in pixels, and a Generator. Images are moved by up to an eighth of the
# height: 4 pixels of 32, which is usual for CIFAR (He et al. 2016, arXiv 1512.03385, section 4.2).
AUGMENTATIONS: dict[str, Callable[[int, int, np.random.Generator], Changes]] = {
    "none": lambda count, height, rng: draw_changes(count, rng),
    "flip": lambda count, height, rng: draw_changes(count, rng, flip=True),
    "crop-flip": lambda count, height, rng: draw_changes(count, rng, height // 8, flip=True),
    "reflect-crop-flip": lambda count, height, rng: draw_changes(count, rng, height // 8, flip=True, reflect=True),
}


def draw_holes(count: int, size: int, side: int, rng: np.random.Generator) -> Array:
    """For `tinymnv1.ops.cutout`: a square hole in each of `count` images of size x size pixels, (count, 4).

    side: of the square, in pixels. Its middle is any pixel of the image, each as likely as another, so that a hole may
    reach over the edge and only a part of it lie in the image (DeVries and Taylor 2017, arXiv 1708.04552, section 3.2).
    """
    first = rng.integers(0, size, (2, count)) - side // 2  # row and column
    return np.clip((first[0], first[0] + side, first[1], first[1] + side), 0, size).T


class Colours(NamedTuple):
    """How each of N images is recoloured, by `tinymnv1.ops.recolour`: contrast, saturation, brightness, (N,) each."""

    contrast: Array
    saturation: Array
    brightness: Array


def draw_colours(count: int, jitter: float, rng: np.random.Generator) -> Colours:
    """Colours of `count` images: contrast and saturation uniform within jitter of 1, brightness within jitter of 0,
    each drawn on its own (colour jitter; Howard 2013, arXiv 1312.5402).
    """
    contrast, saturation, brightness = rng.uniform(-jitter, jitter, (3, count))
    return Colours(1 + contrast, 1 + saturation, brightness)


def first_sides(count: int, seed: int) -> Array:
    """For alternating flips: which of `count` images are mirrored in the first epoch. (count,) bool.

    An image that is mirrored in one epoch is not mirrored in the next, so that any two epochs in a row show both sides
    of it; random flips show the same side twice half of the time (Jordan 2024, arXiv 2404.00498, section 3.6).
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,))).random(count) < 0.5
