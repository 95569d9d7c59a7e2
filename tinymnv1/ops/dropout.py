"""Dropout (Srivastava et al. 2014), the inverted form: what survives is scaled up, so evaluation needs nothing."""

import numpy as np

from tinymnv1.errors import ConfigError
from tinymnv1.ops.window import Array, require_gradient


def dropout_forward(x: Array, p: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Set each value to zero with probability p and scale the rest by 1 / (1 - p), so that the mean stays.

    x: any shape, float32 or float64.  p: in [0, 1).  rng: where the randomness comes from.
    Returns y, of x's shape, and the cache for `dropout_backward`. Raises ConfigError if p is outside [0, 1) or x is
    of another dtype.
    """
    if not 0 <= p < 1:
        raise ConfigError(f"dropout: p must be in [0, 1), got {p}")
    if x.dtype not in (np.float32, np.float64):
        raise ConfigError(f"dropout: x must be float32 or float64, got {x.dtype}")
    scale = (rng.random(x.shape) >= p).astype(x.dtype) / x.dtype.type(1 - p)
    return x * scale, scale


def dropout_backward(dy: Array, cache: Array) -> Array:
    """Gradient with respect to x. dy: any shape. Returns dx.

    Derivation. y = x * scale with scale fixed (0 or 1 / (1 - p)), so dx = dy * scale: the same mask, the same factor.
    """
    require_gradient(dy, cache.shape, "dropout")
    return dy * cache
