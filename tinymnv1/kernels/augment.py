"""Gather, move, mirror and normalise in one pass over the batch, in Numba; the definition is in `tinymnv1.ops.augment`.

A pixel has one of 256 values, so there are 256 results a channel. They are computed once a batch, by NumPy and with the
formula of `ops`; the kernel looks them up. Its batches are therefore those of `ops` to the last bit.
"""

import numpy as np
from numba import prange
from numpy.typing import ArrayLike

from tinymnv1.kernels.compile import parallel, serial
from tinymnv1.ops.augment import check_batch, normalise
from tinymnv1.ops.window import Array


@serial
def _image(image, top, left, flip, table, y):
    height, width, channels = y.shape
    for i in range(height):
        row = i + top
        for j in range(width):
            column = (width - 1 - j if flip else j) + left
            if 0 <= row < height and 0 <= column < width:
                for c in range(channels):
                    y[i, j, c] = table[image[row, column, c], c]
            else:
                for c in range(channels):
                    y[i, j, c] = table[0, c]


@parallel
def _batch(images, chosen, top, left, flip, table, y):
    for n in prange(y.shape[0]):
        _image(images[chosen[n]], top[n], left[n], flip[n], table, y[n])


def augment_batch(
    images: Array, chosen: Array, top: Array, left: Array, flip: Array, mean: ArrayLike, std: ArrayLike
) -> Array:
    """As `tinymnv1.ops.augment_batch`: (M, H, W, C) uint8 and (N,) indices, moves and flips -> (N, H, W, C) float32."""
    check_batch(images, chosen, top, left, flip)
    values = np.arange(256, dtype=np.uint8)
    table = normalise(np.stack([values] * images.shape[3], axis=1), mean, std)  # (256, C)
    y = np.empty((len(chosen), *images.shape[1:]), np.float32)
    _batch(images, chosen, top, left, flip, table, y)
    return y
