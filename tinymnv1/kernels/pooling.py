"""Pooling in Numba; the mathematics is in `tinymnv1.ops.pooling`. An image is a unit of work for one thread."""

import numpy as np
from numba import prange

from tinymnv1.kernels.compile import as_float32, gradient_of, parallel
from tinymnv1.ops.pooling import MaxPoolCache, PoolCache, pool_geometry, pooled_shape
from tinymnv1.ops.window import Array, require_images


@parallel
def _window_sums(x, total, size, stride):
    for n in prange(total.shape[0]):
        for oh in range(total.shape[1]):
            for ow in range(total.shape[2]):
                for i in range(size):
                    for j in range(size):
                        for c in range(total.shape[3]):
                            total[n, oh, ow, c] += x[n, oh * stride + i, ow * stride + j, c]


@parallel
def _avg_backward(dy, dx, size, stride):
    share = np.float32(1) / np.float32(size * size)
    for n in prange(dy.shape[0]):
        for oh in range(dy.shape[1]):
            for ow in range(dy.shape[2]):
                for i in range(size):
                    for j in range(size):
                        for c in range(dy.shape[3]):
                            dx[n, oh * stride + i, ow * stride + j, c] += share * dy[n, oh, ow, c]


@parallel
def _max_forward(x, y, winner, size, stride):
    for n in prange(y.shape[0]):
        for oh in range(y.shape[1]):
            for ow in range(y.shape[2]):
                for c in range(y.shape[3]):
                    best, best_k = x[n, oh * stride, ow * stride, c], 0
                    for k in range(1, size * size):
                        v = x[n, oh * stride + k // size, ow * stride + k % size, c]
                        if v > best or np.isnan(v):
                            best, best_k = v, k
                    y[n, oh, ow, c] = best
                    winner[n, oh, ow, c] = best_k


@parallel
def _max_backward(dy, winner, dx, size, stride):
    for n in prange(dy.shape[0]):
        for oh in range(dy.shape[1]):
            for ow in range(dy.shape[2]):
                for c in range(dy.shape[3]):
                    k = winner[n, oh, ow, c]
                    dx[n, oh * stride + k // size, ow * stride + k % size, c] += dy[n, oh, ow, c]


def avgpool_forward(x: Array, size: int, stride: int | None = None) -> tuple[Array, PoolCache]:
    """As `tinymnv1.ops.avgpool_forward`, float32 only: x (N, H, W, C) -> y (N, OH, OW, C), cache."""
    stride, out_h, out_w = pool_geometry(x, size, stride)
    total = np.zeros((x.shape[0], out_h, out_w, x.shape[3]))  # float64, for the sake of large windows
    _window_sums(as_float32(x, "x"), total, size, stride)
    return (total / (size * size)).astype(np.float32), (x.shape, size, stride)


def avgpool_backward(dy: Array, cache: PoolCache) -> Array:
    """As `tinymnv1.ops.avgpool_backward`: dy (N, OH, OW, C) -> dx (N, H, W, C)."""
    shape, size, stride = cache
    dx = np.zeros(shape, np.float32)
    _avg_backward(gradient_of(pooled_shape(shape, size, stride), dy, "avgpool"), dx, size, stride)
    return dx


def maxpool_forward(x: Array, size: int, stride: int | None = None) -> tuple[Array, MaxPoolCache]:
    """As `tinymnv1.ops.maxpool_forward`, float32 only: x (N, H, W, C) -> y (N, OH, OW, C), cache."""
    stride, out_h, out_w = pool_geometry(x, size, stride)
    y = np.empty((x.shape[0], out_h, out_w, x.shape[3]), np.float32)
    winner = np.empty(y.shape, np.int32)
    _max_forward(as_float32(x, "x"), y, winner, size, stride)
    return y, (x.shape, size, stride, winner)


def maxpool_backward(dy: Array, cache: MaxPoolCache) -> Array:
    """As `tinymnv1.ops.maxpool_backward`: dy (N, OH, OW, C) -> dx (N, H, W, C)."""
    shape, size, stride, winner = cache
    dx = np.zeros(shape, np.float32)
    _max_backward(gradient_of(winner.shape, dy, "maxpool"), winner, dx, size, stride)
    return dx


def global_avgpool_forward(x: Array) -> tuple[Array, tuple[int, ...]]:
    """As `tinymnv1.ops.global_avgpool_forward`, float32 only: x (N, H, W, C) -> y (N, C), cache."""
    require_images(x, "global_avgpool")
    n, height, width, channels = x.shape
    total = np.zeros((n, channels))  # float64: a running sum of many pixels outgrows float32's digits
    _global_sum(as_float32(x, "x").reshape(n, height * width, channels), total)
    return (total / (height * width)).astype(np.float32), x.shape


@parallel
def _global_sum(x, total):
    for n in prange(x.shape[0]):
        for m in range(x.shape[1]):
            for c in range(x.shape[2]):
                total[n, c] += x[n, m, c]


def global_avgpool_backward(dy: Array, cache: tuple[int, ...]) -> Array:
    """As `tinymnv1.ops.global_avgpool_backward`: dy (N, C) -> dx (N, H, W, C). A broadcast needs no kernel."""
    n, height, width, channels = cache
    dx = np.empty(cache, np.float32)
    dy = gradient_of((n, channels), dy, "global_avgpool")
    dx[:] = (dy / np.float32(height * width)).reshape(n, 1, 1, channels)
    return dx
