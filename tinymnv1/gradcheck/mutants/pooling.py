"""Mutants of the pooling ops."""

from typing import Any

import numpy as np

from tinymnv1 import ops
from tinymnv1.gradcheck.mutants.catalogue import Functions, mutant
from tinymnv1.ops.window import Array, tap


@mutant("global_avgpool", "not divided by the window")
def global_avgpool_not_divided() -> Functions:
    """dx is dy on every pixel: the 1 / (H * W) is missing."""

    def global_avgpool_backward(dy: Array, cache: Any) -> Array:
        height, width = cache[1:3]
        return ops.global_avgpool_backward(dy, cache) * dy.dtype.type(height * width)

    return {"global_avgpool_backward": global_avgpool_backward}


@mutant("avgpool", "overwritten instead of added")
def avgpool_assigned() -> Functions:
    """Where windows overlap, the later one overwrites the share of the earlier one."""

    def avgpool_backward(dy: Array, cache: Any) -> Array:
        shape, size, stride = cache
        dx = np.zeros(shape, dy.dtype)
        for i, j in np.ndindex(size, size):
            tap(dx, i, j, stride, *dy.shape[1:3])[...] = dy / (size * size)
        return dx

    return {"avgpool_backward": avgpool_backward}


@mutant("avgpool", "divided by one side only")
def avgpool_divided_by_size() -> Functions:
    """dy is shared among `size` pixels; a window has size * size."""

    def avgpool_backward(dy: Array, cache: Any) -> Array:
        return ops.avgpool_backward(dy, cache) * dy.dtype.type(cache[1])

    return {"avgpool_backward": avgpool_backward}


@mutant("maxpool", "all pixels of the window")
def maxpool_to_all() -> Functions:
    """dy goes to every pixel of the window, not to the largest."""

    def maxpool_backward(dy: Array, cache: Any) -> Array:
        shape, size, stride, _ = cache
        return ops.avgpool_backward(dy, (shape, size, stride)) * dy.dtype.type(size * size)

    return {"maxpool_backward": maxpool_backward}


@mutant("maxpool", "overwritten instead of added")
def maxpool_assigned() -> Functions:
    """A pixel that wins two windows keeps the dy of the later one only."""

    def maxpool_backward(dy: Array, cache: Any) -> Array:
        shape, size, stride, winner = cache
        dx = np.zeros(shape, dy.dtype)
        for k in range(size * size):
            grid = tap(dx, k // size, k % size, stride, *dy.shape[1:3])
            grid[...] = np.where(winner == k, dy, grid)
        return dx

    return {"maxpool_backward": maxpool_backward}
