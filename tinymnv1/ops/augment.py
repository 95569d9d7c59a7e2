"""From stored images to a training batch: gather, move, mirror, normalise. Nothing here is random.

`tinymnv1.data.augment` draws what happens to each image.
"""

import numpy as np
from numpy.typing import ArrayLike

from tinymnv1.errors import ConfigError
from tinymnv1.ops.window import Array


def crop_flip(images: Array, top: Array, left: Array, flip: Array) -> Array:
    """A window of each image, as large as the image, and mirrored left to right where flip says so.

        y[n, i, j] = images[n, i + top[n], k + left[n]]     with k = j, or W - 1 - j where flip[n];
                     0 (black) where that is outside the image

    images: (N, H, W, C) of any dtype.  top, left: (N,) integers, pixels.  flip: (N,) bool.  Returns a new array.
    """
    n, height, width, _ = images.shape
    margin = int(max(np.abs(top).max(initial=0), np.abs(left).max(initial=0)))
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    columns = np.arange(width)
    rows = margin + top[:, None] + np.arange(height)  # (N, H)
    columns = margin + left[:, None] + np.where(flip[:, None], columns[::-1], columns)  # (N, W)
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def normalise(images: Array, mean: ArrayLike, std: ArrayLike) -> Array:
    """(images / 255 - mean) / std in float32. images: (..., C) uint8.  mean, std: (C,), of pixels scaled to [0, 1]."""
    std = np.asarray(std, np.float32)
    x = images * (1 / (255 * std))
    x -= np.asarray(mean, np.float32) / std
    return x


def augment_batch(
    images: Array, chosen: Array, top: Array, left: Array, flip: Array, mean: ArrayLike, std: ArrayLike
) -> Array:
    """The chosen images, moved, mirrored and normalised: `crop_flip`, then `normalise`.

    images: (M, H, W, C) uint8, a whole data set.  chosen: (N,) indices into it.  top, left, flip: (N,), as for
    `crop_flip`.  mean, std: (C,), as for `normalise`.  Returns (N, H, W, C) float32.
    Raises ConfigError if an index is outside the set, or shapes or dtype do not fit.
    """
    check_batch(images, chosen, top, left, flip)
    return normalise(crop_flip(images[chosen], top, left, flip), mean, std)


def check_batch(images: Array, chosen: Array, top: Array, left: Array, flip: Array) -> None:
    """Raise ConfigError unless the arguments of `augment_batch` fit together."""
    if images.ndim != 4 or images.dtype != np.uint8:
        raise ConfigError(f"images must be (M, H, W, C) uint8, got {images.shape} {images.dtype}")
    if not (chosen.ndim == 1 and chosen.shape == top.shape == left.shape == flip.shape):
        shapes = ", ".join(str(a.shape) for a in (chosen, top, left, flip))
        raise ConfigError(f"chosen, top, left and flip must have one number an image, got {shapes}")
    if chosen.size and not 0 <= chosen.min() <= chosen.max() < len(images):
        raise ConfigError(f"there are {len(images)} images: cannot take {chosen.min()} to {chosen.max()}")
