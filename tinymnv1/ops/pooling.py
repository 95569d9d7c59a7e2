"""Pooling: the mean or the maximum of each window, and the mean of a whole map. No padding, no parameters.

MobileNetV1 ends in a global mean. Written so, and not as a 7x7 pool, the network takes an image of any size.
"""

import numpy as np

from tinymnv1.errors import ConfigError
from tinymnv1.ops.window import Array, require_gradient, require_images, tap

PoolCache = tuple[tuple[int, ...], int, int]
MaxPoolCache = tuple[tuple[int, ...], int, int, Array]


def pool_geometry(x: Array, size: int, stride: int | None) -> tuple[int, int, int]:
    """(stride, OH, OW) of a size x size window over x (N, H, W, C); stride=None means stride = size."""
    require_images(x, "pooling")
    stride = size if stride is None else stride
    height, width = x.shape[1:3]
    if size < 1 or stride < 1 or size > min(height, width):
        raise ConfigError(f"pooling: a window of {size} with stride {stride} does not fit into {height}x{width} pixels")
    return stride, *pooled_shape(x.shape, size, stride)[1:3]


def pooled_shape(shape: tuple[int, ...], size: int, stride: int) -> tuple[int, int, int, int]:
    """(N, OH, OW, C) from x's (N, H, W, C)."""
    n, height, width, channels = shape
    return n, (height - size) // stride + 1, (width - size) // stride + 1, channels


def avgpool_forward(x: Array, size: int, stride: int | None = None) -> tuple[Array, PoolCache]:
    """Mean of each size x size window.

    x: (N, H, W, C), float.  size, stride: pixels; stride=None means stride = size. Pixels at the right and bottom
    that no whole window covers are dropped.
    Returns y: (N, OH, OW, C) and the cache for `avgpool_backward`. Raises ConfigError if no window fits.
    """
    stride, out_h, out_w = pool_geometry(x, size, stride)
    total = np.zeros((x.shape[0], out_h, out_w, x.shape[3]))  # float64, for the sake of large windows
    for i in range(size):
        for j in range(size):
            total += tap(x, i, j, stride, out_h, out_w)
    return (total / (size * size)).astype(x.dtype), (x.shape, size, stride)


def avgpool_backward(dy: Array, cache: PoolCache) -> Array:
    """Gradient with respect to x. dy: (N, OH, OW, C). Returns dx: (N, H, W, C).

    Derivation. A window's mean depends on each of its size^2 pixels with factor 1 / size^2, so every pixel gets that
    share of dy, added up over the windows that cover it (more than one when stride < size).
    """
    shape, size, stride = cache
    require_gradient(dy, pooled_shape(shape, size, stride), "avgpool")
    dx = np.zeros(shape, dy.dtype)
    share = dy / (size * size)
    for i in range(size):
        for j in range(size):
            dx_tap = tap(dx, i, j, stride, dy.shape[1], dy.shape[2])
            dx_tap += share
    return dx


def maxpool_forward(x: Array, size: int, stride: int | None = None) -> tuple[Array, MaxPoolCache]:
    """Maximum of each size x size window; arguments, shapes and errors as for `avgpool_forward`.

    The cache remembers which tap won. On a tie the first one wins, reading the window row by row, as in PyTorch.
    """
    stride, out_h, out_w = pool_geometry(x, size, stride)
    y = tap(x, 0, 0, stride, out_h, out_w).copy()
    winner = np.zeros(y.shape, np.int32)  # i * size + j of the largest pixel so far
    for k in range(1, size * size):
        candidate = tap(x, k // size, k % size, stride, out_h, out_w)
        larger = (candidate > y) | np.isnan(candidate)
        y = np.where(larger, candidate, y)
        winner[larger] = k
    return y, (x.shape, size, stride, winner)


def maxpool_backward(dy: Array, cache: MaxPoolCache) -> Array:
    """Gradient with respect to x. dy: (N, OH, OW, C). Returns dx: (N, H, W, C).

    Derivation. Near x, the maximum is the winning pixel itself: its derivative is 1 for the winner and 0 for the
    others. So the whole dy of a window goes to its winner; a pixel that won several windows gets the sum.
    """
    shape, size, stride, winner = cache
    require_gradient(dy, winner.shape, "maxpool")
    dx = np.zeros(shape, dy.dtype)
    for k in range(size * size):
        dx_tap = tap(dx, k // size, k % size, stride, dy.shape[1], dy.shape[2])
        dx_tap += np.where(winner == k, dy, 0)
    return dx


def global_avgpool_forward(x: Array) -> tuple[Array, tuple[int, ...]]:
    """Mean of each channel over the whole map. x: (N, H, W, C). Returns y: (N, C) and the cache for the backward.

    Raises ConfigError unless x is (N, H, W, C).
    """
    require_images(x, "global_avgpool")
    y: Array = x.mean(axis=(1, 2), dtype=np.float64)  # in float32 a running sum over a large map would lose digits
    return y.astype(x.dtype), x.shape


def global_avgpool_backward(dy: Array, cache: tuple[int, ...]) -> Array:
    """Gradient with respect to x. dy: (N, C). Returns dx: (N, H, W, C).

    Derivation. y[n, c] is the mean of H*W values, each with derivative 1 / (H*W): all of them get the same share.
    """
    n, height, width, channels = cache
    require_gradient(dy, (n, channels), "global_avgpool")
    dx = np.empty(cache, dy.dtype)
    dx[:] = (dy / (height * width)).reshape(n, 1, 1, channels)
    return dx
