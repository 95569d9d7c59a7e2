"""The pointwise (1x1) convolution: the same matrix applied to the channels of every pixel.

    y[n, h, w, o] = sum over c of  x[n, h, w, c] * weight[c, o]

In NHWC the channels of a pixel lie side by side, so the whole layer is one matrix product,
(N*H*W, Cin) @ (Cin, Cout): 95 % of MobileNetV1's multiply-adds.
"""

from tinymnv1.errors import ConfigError
from tinymnv1.ops.window import Array, require_gradient, require_images

Cache = tuple[Array, Array]


def check_pointwise(x: Array, w: Array) -> None:
    """Raise ConfigError unless x is (N, H, W, Cin) and w is (Cin, Cout), and not empty."""
    require_images(x, "pointwise")
    if w.ndim != 2 or w.shape[0] != x.shape[3] or w.size == 0:
        raise ConfigError(f"pointwise: w must be ({x.shape[3]}, Cout) and not empty for x {x.shape}, got {w.shape}")


def pointwise_forward(x: Array, w: Array) -> tuple[Array, Cache]:
    """Mix the channels of every pixel.

    x: (N, H, W, Cin), float32 or float64.  w: (Cin, Cout), same dtype.
    Returns y: (N, H, W, Cout), and the cache for `pointwise_backward`. Raises ConfigError on shapes that do not fit.
    """
    check_pointwise(x, w)
    y = x.reshape(-1, w.shape[0]) @ w  # (N*H*W, Cout)
    return y.reshape(*x.shape[:3], w.shape[1]), (x, w)


def pointwise_backward(dy: Array, cache: Cache) -> tuple[Array, Array]:
    """Gradients of a loss L with respect to x and w, given dy = dL/dy.

    dy: (N, H, W, Cout).  Returns dx: (N, H, W, Cin), dw: (Cin, Cout).

    Derivation. With pixels as rows, Y = X @ W, that is Y[p, o] = sum over c of X[p, c] W[c, o]. X[p, c] appears in
    Y[p, o] for every o, with factor W[c, o]; W[c, o] appears in Y[p, o] for every p, with factor X[p, c]. So

        dX[p, c] = sum over o of dY[p, o] W[c, o]     dX = dY @ W.T
        dW[c, o] = sum over p of X[p, c] dY[p, o]     dW = X.T @ dY

    The shapes leave no other choice: it is a good way to remember it.
    """
    x, w = cache
    cin, cout = w.shape
    require_gradient(dy, (*x.shape[:3], cout), "pointwise")
    dy_rows = dy.reshape(-1, cout)  # (N*H*W, Cout)
    dx = (dy_rows @ w.T).reshape(x.shape)
    dw = x.reshape(-1, cin).T @ dy_rows
    return dx, dw
