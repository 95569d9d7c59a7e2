"""What ReLU, ReLU6 and dropout give under each common mistake."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinymnv1.gradcheck.diagnosis.causes import Candidate
from tinymnv1.ops.window import Array


def relu_candidates(inputs: dict[str, Any], options: dict[str, Any], dy: Array) -> Iterator[Candidate]:
    """Wrong y and dx of plain ReLU."""
    x = inputs["x"]
    yield "y", "lower bound missing", x
    yield "dx", "mask always open", dy
    yield "dx", "upstream gradient forgotten", (x > 0).astype(float)
    yield "dx", "mask open at 0", dy * (x < 0)
    for slope in (0.01, 0.1, 0.2):
        yield "y", "leaky", np.where(x > 0, x, slope * x)
        yield "dx", "leaky", np.where(x > 0, dy, slope * dy)


def relu6_candidates(inputs: dict[str, Any], options: dict[str, Any], dy: Array) -> Iterator[Candidate]:
    """Wrong y and dx of ReLU6."""
    x = inputs["x"]
    yield "y", "upper bound missing", np.maximum(x, 0)
    yield "y", "lower bound missing", np.minimum(x, 6)
    yield "dx", "mask open at 6", dy * (x > 0)
    yield "dx", "mask open at 0", dy * (x < 6)
    yield "dx", "mask always open", dy
    yield "dx", "upstream gradient forgotten", ((x > 0) & (x < 6)).astype(float)


def has_fresh_mask(got: Array, dy: Array, p: float) -> bool:
    """Whether a dx of dropout is made of zeros and scaled dy, as a right one is (only that the places are others)."""
    return bool(np.isclose(got, np.where(got == 0, 0, dy / (1 - p)), rtol=1e-5).all()) and bool((got == 0).any())


def dropout_candidates(inputs: dict[str, Any], options: dict[str, Any], dy: Array, y: Array) -> Iterator[Candidate]:
    """Wrong y and dx of dropout, given the learner's own y, whose zeros are the mask."""
    x, p = inputs["x"], inputs["p"]
    mask = y != 0
    yield "y", "scale forgotten", x * mask
    yield "dx", "scale forgotten", dy * mask
    if p > 0:
        yield "y", "scaled by p", x * mask / p
        yield "dx", "scaled by p", dy * mask / p
    yield "dx", "mask forgotten", dy
    yield "dx", "mask forgotten", dy / (1 - p)
    yield "dx", "upstream gradient forgotten", mask / (1 - p)
