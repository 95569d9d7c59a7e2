"""The fully connected layer on register tiles; the mathematics is in `tinymnv1.ops.linear`."""

from tinymnv1.kernels.compile import as_float32, gradient_of
from tinymnv1.kernels.product import multiply, multiply_transposed
from tinymnv1.ops.linear import Cache, check_linear
from tinymnv1.ops.window import Array


def linear_forward(x: Array, w: Array, b: Array) -> tuple[Array, Cache]:
    """As `tinymnv1.ops.linear_forward`, float32 only: x (N, Cin), w (Cin, Cout), b (Cout,) -> y (N, Cout), cache."""
    check_linear(x, w, b)
    x, w = as_float32(x, "x"), as_float32(w, "w")
    return multiply(x, w) + as_float32(b, "b"), (x, w)


def linear_backward(dy: Array, cache: Cache) -> tuple[Array, Array, Array]:
    """As `tinymnv1.ops.linear_backward`: dy (N, Cout) -> dx (N, Cin), dw (Cin, Cout), db (Cout,)."""
    x, w = cache
    dy = gradient_of((x.shape[0], w.shape[1]), dy, "linear")
    return multiply(dy, w.T), multiply_transposed(x, dy), dy.sum(axis=0)
