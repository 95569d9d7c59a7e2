"""Pointwise convolution on register tiles; the mathematics and its derivation are in `tinymnv1.ops.pointwise`."""

from tinymnv1.kernels.compile import as_float32, gradient_of
from tinymnv1.kernels.product import multiply, multiply_transposed
from tinymnv1.ops.pointwise import Cache, check_pointwise
from tinymnv1.ops.window import Array


def pointwise_forward(x: Array, w: Array) -> tuple[Array, Cache]:
    """As `tinymnv1.ops.pointwise_forward`, float32 only: x (N, H, W, Cin), w (Cin, Cout) -> y, cache."""
    check_pointwise(x, w)
    x, w = as_float32(x, "x"), as_float32(w, "w")
    y = multiply(x.reshape(-1, x.shape[3]), w)
    return y.reshape(*x.shape[:3], w.shape[1]), (x, w)


def pointwise_backward(dy: Array, cache: Cache) -> tuple[Array, Array]:
    """As `tinymnv1.ops.pointwise_backward`: dy (N, H, W, Cout) -> dx (N, H, W, Cin), dw (Cin, Cout)."""
    x, w = cache
    cin, cout = w.shape
    dy_rows = gradient_of((*x.shape[:3], cout), dy, "pointwise").reshape(-1, cout)  # (N*H*W, Cout)
    return multiply(dy_rows, w.T).reshape(x.shape), multiply_transposed(x.reshape(-1, cin), dy_rows)
