"""Gather, move, mirror, normalise and cut out in one pass over the batch, in Numba; `tinymnv1.ops.augment` defines it.

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
def _inside(index, size, reflect):
    """Where the row or column `index` is found in an image of `size` of them; -1: nowhere, it is black."""
    if 0 <= index < size:
        return index
    if not reflect:
        return -1
    period = max(2 * size - 2, 1)  # there and back again, the two ends once each
    index = index % period
    return index if index < size else period - index


@serial
def _image(image, top, left, flip, reflect, hole, table, y):
    height, width, channels = y.shape
    for i in range(height):
        row = _inside(i + top, height, reflect)
        for j in range(width):
            column = _inside((width - 1 - j if flip else j) + left, width, reflect)
            if row >= 0 and column >= 0:
                for c in range(channels):
                    y[i, j, c] = table[image[row, column, c], c]
            else:
                for c in range(channels):
                    y[i, j, c] = table[0, c]
    y[hole[0] : hole[1], hole[2] : hole[3]] = 0


@parallel
def _batch(images, chosen, top, left, flip, reflect, holes, table, y):
    for n in prange(y.shape[0]):
        _image(images[chosen[n]], top[n], left[n], flip[n], reflect, holes[n], table, y[n])


def augment_batch(
    images: Array,
    chosen: Array,
    top: Array,
    left: Array,
    flip: Array,
    reflect: bool,
    mean: ArrayLike,
    std: ArrayLike,
    holes: Array | None = None,
) -> Array:
    """As `tinymnv1.ops.augment_batch`: (M, H, W, C) uint8 and (N,) indices, moves and flips -> (N, H, W, C) float32."""
    check_batch(images, chosen, top, left, flip, mean, std, holes)
    values = np.arange(256, dtype=np.uint8)
    table = normalise(np.stack([values] * images.shape[3], axis=1), mean, std)  # (256, C)
    holes = np.zeros((len(chosen), 4), np.int64) if holes is None else np.ascontiguousarray(holes, np.int64)
    y = np.empty((len(chosen), *images.shape[1:]), np.float32)
    _batch(images, chosen, top, left, flip, reflect, holes, table, y)
    return y
