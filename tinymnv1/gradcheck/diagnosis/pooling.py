"""What the pooling ops give under each common mistake."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinymnv1.gradcheck.diagnosis.causes import Candidate
from tinymnv1.ops.window import Array, tap


def _spread(inputs: dict[str, Any], options: dict[str, Any], dy: Array, largest: bool, add: bool, step: int) -> Array:
    """dy handed back to each window's pixels (or to its largest one), windows lying `step` pixels apart."""
    x, size = inputs["x"], inputs["size"]
    read = options.get("stride", size)
    out_h, out_w = dy.shape[1:3]
    dx = np.zeros_like(x)
    y = np.max([tap(x, i, j, read, out_h, out_w) for i, j in np.ndindex(size, size)], axis=0)
    for i, j in np.ndindex(size, size):
        grid = tap(dx, i, j, step, out_h, out_w)
        if grid.shape != dy.shape:
            return np.full_like(x, np.nan)
        won = tap(x, i, j, read, out_h, out_w) == y if largest else np.ones(dy.shape, bool)
        grid[...] = np.where(won, dy + (grid if add else 0), grid)
    return dx


def avgpool_candidates(inputs: dict[str, Any], options: dict[str, Any], dy: Array) -> Iterator[Candidate]:
    """Wrong y and dx of average pooling."""
    x, size = inputs["x"], inputs["size"]
    stride = options.get("stride", size)
    taps = [tap(x, i, j, stride, *dy.shape[1:3]) for i, j in np.ndindex(size, size)]
    yield "y", "not divided by the window", np.sum(taps, axis=0)
    yield "y", "divided by one side only", np.sum(taps, axis=0) / size
    share = dy / size**2
    yield "dx", "overwritten instead of added", _spread(inputs, options, share, False, False, stride)
    yield "dx", "not divided by the window", _spread(inputs, options, dy, False, True, stride)
    yield "dx", "divided by one side only", _spread(inputs, options, dy / size, False, True, stride)
    yield "dx", "stride forgotten", _spread(inputs, options, share, False, True, 1)
    yield "dx", "upstream gradient forgotten", _spread(inputs, options, np.ones_like(dy) / size**2, False, True, stride)


def maxpool_candidates(inputs: dict[str, Any], options: dict[str, Any], dy: Array) -> Iterator[Candidate]:
    """Wrong y and dx of max pooling."""
    size = inputs["size"]
    stride = options.get("stride", size)
    yield "dx", "all pixels of the window", _spread(inputs, options, dy, False, True, stride)
    yield "dx", "shared among the window", _spread(inputs, options, dy / size**2, False, True, stride)
    yield "dx", "overwritten instead of added", _spread(inputs, options, dy, True, False, stride)
    yield "dx", "upstream gradient forgotten", _spread(inputs, options, np.ones_like(dy), True, True, stride)


def global_avgpool_candidates(inputs: dict[str, Any], options: dict[str, Any], dy: Array) -> Iterator[Candidate]:
    """Wrong y and dx of the global mean."""
    x = inputs["x"]
    height, width = x.shape[1:3]
    ones = np.ones_like(x)
    dx = dy[:, None, None, :] * ones
    yield "y", "not divided by the window", x.sum(axis=(1, 2))
    yield "dx", "not divided by the window", dx
    yield "dx", "divided by one side only", dx / height
    yield "dx", "divided by one side only", dx / width
    yield "dx", "divided by the batch", dx / (height * width * len(x))
    yield "dx", "upstream gradient forgotten", ones / (height * width)
