"""ReLU6 in Numba; the mathematics is in `tinymnv1.ops.activation`. One pass, and the cache is x itself."""

import numpy as np
from numba import prange

from tinymnv1.kernels.compile import aligned_like, as_float32, gradient_of, parallel
from tinymnv1.ops.window import Array


@parallel
def _forward(x, y):
    for i in prange(x.size):
        v = x[i]
        # Written so that a NaN fails both comparisons and stays a NaN.
        if v < 0:
            v = np.float32(0)
        if v > 6:
            v = np.float32(6)
        y[i] = v


@parallel
def _backward(dy, x, dx):
    for i in prange(x.size):
        dx[i] = dy[i] if x[i] > 0 and x[i] < 6 else np.float32(0)


def relu6_forward(x: Array) -> tuple[Array, Array]:
    """As `tinymnv1.ops.relu6_forward`, float32 only: x of any shape -> y of the same shape, cache."""
    x = as_float32(x, "x")
    y = aligned_like(x)
    _forward(x.reshape(-1), y.reshape(-1))
    return y, x


def relu6_backward(dy: Array, cache: Array) -> Array:
    """As `tinymnv1.ops.relu6_backward`: dy -> dx, of the same shape."""
    dy, dx = gradient_of(cache.shape, dy, "relu6"), aligned_like(cache)
    _backward(dy.reshape(-1), cache.reshape(-1), dx.reshape(-1))
    return dx
