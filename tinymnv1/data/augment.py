"""Random changes that leave the class as it is, on uint8 images. Each takes an explicit Generator.

A batch goes through one of the recipes in `AUGMENTATIONS`.
"""

from collections.abc import Callable

import numpy as np

from tinymnv1.errors import ConfigError
from tinymnv1.ops.window import Array


def random_flip(images: Array, rng: np.random.Generator) -> Array:
    """Mirror each image left to right with probability 1/2. images: (N, H, W, C). Returns a new array."""
    flip = rng.random(len(images)) < 0.5
    return np.where(flip[:, None, None, None], images[:, :, ::-1], images)


def random_crop(images: Array, margin: int, rng: np.random.Generator) -> Array:
    """Shift each image by up to `margin` pixels in both directions; what comes in from outside is black.

    images: (N, H, W, C).  margin: pixels, at least 0.  Returns a new array of the same shape: a random H x W window of
    the image with `margin` zeros around it.
    """
    if margin < 0:
        raise ConfigError(f"margin must be at least 0, got {margin}")
    n, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    top, left = rng.integers(0, 2 * margin + 1, (2, n))
    rows = top[:, None] + np.arange(height)  # (N, H)
    columns = left[:, None] + np.arange(width)  # (N, W)
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _crop_flip(images: Array, rng: np.random.Generator) -> Array:
    """Shift by up to an eighth of the height (4 pixels of 32), then mirror."""
    return random_flip(random_crop(images, images.shape[1] // 8, rng), rng)


AUGMENTATIONS: dict[str, Callable[[Array, np.random.Generator], Array]] = {
    "none": lambda images, rng: images,
    "flip": random_flip,
    "crop-flip": _crop_flip,
}
