"""The fully connected layer, MobileNetV1's classifier: y = x @ w + b."""

from tinymnv1.errors import ConfigError
from tinymnv1.ops.window import Array, require_gradient

Cache = tuple[Array, Array]


def check_linear(x: Array, w: Array, b: Array) -> None:
    """Raise ConfigError unless x is (N, Cin), w is (Cin, Cout) and b is (Cout,), and none of them empty."""
    if x.size == 0 or w.size == 0:
        raise ConfigError(f"linear: x and w must not be empty, got {x.shape} and {w.shape}")
    if x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[0] or b.shape != w.shape[1:]:
        raise ConfigError(f"linear: x (N, Cin), w (Cin, Cout), b (Cout,) do not fit: {x.shape}, {w.shape}, {b.shape}")


def linear_forward(x: Array, w: Array, b: Array) -> tuple[Array, Cache]:
    """Multiply by a matrix and add a bias.

    x: (N, Cin), float32 or float64.  w: (Cin, Cout).  b: (Cout,).
    Returns y: (N, Cout) and the cache for `linear_backward`. Raises ConfigError on shapes that do not fit.
    """
    check_linear(x, w, b)
    return x @ w + b, (x, w)


def linear_backward(dy: Array, cache: Cache) -> tuple[Array, Array, Array]:
    """Gradients with respect to x, w and b. dy: (N, Cout). Returns dx: (N, Cin), dw: (Cin, Cout), db: (Cout,).

    Derivation. The product is that of `pointwise_backward`: dx = dy @ w.T, dw = x.T @ dy. b[o] is added to y[n, o]
    for every n, so it collects dy over the batch.
    """
    x, w = cache
    require_gradient(dy, (x.shape[0], w.shape[1]), "linear")
    return dy @ w.T, x.T @ dy, dy.sum(axis=0)
