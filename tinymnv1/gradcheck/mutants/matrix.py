"""Mutants of pointwise and linear."""

from typing import Any

from tinymnv1 import ops
from tinymnv1.gradcheck.mutants.catalogue import Functions, mutant
from tinymnv1.ops.window import Array


@mutant("pointwise", "channels transposed")
def pointwise_dx_not_transposed() -> Functions:
    """dx = dy @ w instead of dy @ w.T: an exception, but where Cin = Cout a wrong number."""

    def pointwise_backward(dy: Array, cache: Any) -> Any:
        return dy @ cache[1], ops.pointwise_backward(dy, cache)[1]

    return {"pointwise_backward": pointwise_backward}


@mutant("pointwise", "mean instead of sum")
def pointwise_dw_mean() -> Functions:
    """dw is the mean over all pixels of the batch instead of their sum."""

    def pointwise_backward(dy: Array, cache: Any) -> Any:
        dx, dw = ops.pointwise_backward(dy, cache)
        return dx, dw / dw.dtype.type(dy.shape[0] * dy.shape[1] * dy.shape[2])

    return {"pointwise_backward": pointwise_backward}


@mutant("linear", "divided by the batch")
def linear_db_averaged() -> Functions:
    """db is the mean of dy over the batch: divided by N a second time, after the loss."""

    def linear_backward(dy: Array, cache: Any) -> Any:
        dx, dw, _ = ops.linear_backward(dy, cache)
        return dx, dw, dy.mean(axis=0)

    return {"linear_backward": linear_backward}


@mutant("linear", "bias gradient not summed")
def linear_db_not_summed() -> Functions:
    """db is dy itself, one row an image."""

    def linear_backward(dy: Array, cache: Any) -> Any:
        dx, dw, _ = ops.linear_backward(dy, cache)
        return dx, dw, dy.copy()

    return {"linear_backward": linear_backward}
