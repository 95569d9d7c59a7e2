"""ReLU6 = min(max(x, 0), 6), and plain ReLU. MobileNetV1's paper says ReLU; Google's released models use ReLU6."""

import numpy as np

from tinymnv1.ops.window import Array, require_gradient


def relu6_forward(x: Array) -> tuple[Array, Array]:
    """Clip to [0, 6]. x: any shape, float. Returns y, of the same shape, and the cache for `relu6_backward`.

    The upper bound keeps activations small enough for 8-bit and 16-bit arithmetic on a phone.
    """
    return np.minimum(np.maximum(x, 0), 6), (x > 0) & (x < 6)


def relu6_backward(dy: Array, cache: Array) -> Array:
    """Gradient with respect to x, given dy of the same shape. Returns dx.

    Derivation. y = x where 0 < x < 6, so dy/dx = 1 there; elsewhere y is constant and dy/dx = 0. At exactly 0 and 6
    there is no derivative; like PyTorch we take 0, so the mask is open at both ends.
    """
    require_gradient(dy, cache.shape, "relu6")
    return np.where(cache, dy, np.zeros((), dy.dtype))


def relu_forward(x: Array) -> tuple[Array, Array]:
    """max(x, 0). x: any shape, float. Returns y, of the same shape, and the cache for `relu_backward`."""
    return np.maximum(x, 0), x > 0


def relu_backward(dy: Array, cache: Array) -> Array:
    """Gradient with respect to x, given dy of the same shape: dy where x > 0, else 0. Returns dx."""
    require_gradient(dy, cache.shape, "relu")
    return np.where(cache, dy, np.zeros((), dy.dtype))
