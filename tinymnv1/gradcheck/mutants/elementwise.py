"""Mutants of ReLU, ReLU6 and dropout: wrong masks."""

from typing import Any

import numpy as np

from tinymnv1 import ops
from tinymnv1.gradcheck.mutants.catalogue import Functions, mutant
from tinymnv1.ops.window import Array


def _relu6_mask(mask_of: Any) -> Functions:
    """relu6 whose backward lets dy through where mask_of(x, y) holds."""

    def relu6_forward(x: Array) -> Any:
        y, _ = ops.relu6_forward(x)
        return y, mask_of(x, y)

    def relu6_backward(dy: Array, cache: Any) -> Array:
        return dy * cache

    return {"relu6_forward": relu6_forward, "relu6_backward": relu6_backward}


@mutant("relu6", "mask open at 6")
def relu6_mask_open_at_6() -> Functions:
    """The mask is x > 0, copied from plain ReLU: above 6 the gradient passes."""
    return _relu6_mask(lambda x, y: x > 0)


@mutant("relu6", "mask open at 0")
def relu6_mask_open_at_0() -> Functions:
    """The mask is x < 6: below 0 the gradient passes."""
    return _relu6_mask(lambda x, y: x < 6)


@mutant("relu6", "mask always open")
def relu6_mask_from_y() -> Functions:
    """The mask is made from the clipped y: 0 <= y <= 6 is true everywhere."""
    return _relu6_mask(lambda x, y: (y >= 0) & (y <= 6))


@mutant("relu", "leaky")
def relu_leaky() -> Functions:
    """A slope of 0.01 below 0: another activation, and hardly visible in a picture."""

    def relu_forward(x: Array) -> Any:
        slope = np.where(x > 0, 1, 0.01).astype(x.dtype)
        return x * slope, slope

    return {"relu_forward": relu_forward, "relu_backward": lambda dy, cache: dy * cache}


@mutant("dropout", "scale forgotten")
def dropout_scale_forgotten() -> Functions:
    """backward applies the mask but not the factor 1 / (1 - p)."""
    return {"dropout_backward": lambda dy, cache: dy * (cache != 0)}


@mutant("dropout", "p is the chance to keep")
def dropout_keeps_with_p() -> Functions:
    """p is taken for the probability to keep a value, as in TensorFlow 1."""

    def dropout_forward(x: Array, p: float, rng: np.random.Generator) -> Any:
        scale = (rng.random(x.shape) < p).astype(x.dtype) / x.dtype.type(p or 1)
        return x * scale, scale

    return {"dropout_forward": dropout_forward}


@mutant("dropout", "mask forgotten")
def dropout_backward_without_mask() -> Functions:
    """backward hands dy through, as dropout does in evaluation."""
    return {"dropout_backward": lambda dy, cache: dy.copy()}


@mutant("dropout", "fresh mask")
def dropout_backward_draws_again() -> Functions:
    """backward draws its mask anew instead of keeping that of forward."""

    def dropout_forward(x: Array, p: float, rng: np.random.Generator) -> Any:
        return ops.dropout_forward(x, p, rng)[0], (p, rng)

    def dropout_backward(dy: Array, cache: Any) -> Array:
        p, rng = cache
        return ops.dropout_forward(dy, p, rng)[0]

    return {"dropout_forward": dropout_forward, "dropout_backward": dropout_backward}


@mutant("dropout", "rng ignored")
def dropout_own_rng() -> Functions:
    """The mask comes from a generator that is made anew in every call, always with the same seed."""

    def dropout_forward(x: Array, p: float, rng: np.random.Generator) -> Any:
        return ops.dropout_forward(x, p, np.random.default_rng(0))

    return {"dropout_forward": dropout_forward}
