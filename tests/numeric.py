"""Numeric gradients for the tests: central differences over every element, and the relative error used throughout."""

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def numeric_gradient(f: Callable[[Array], Array], x: Array, dy: Array, h: float = 1e-5) -> Array:
    """d sum(f(x) * dy) / dx, element by element: (f(x + h) - f(x - h)) / 2h. x: float64, put back afterwards."""
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + h
        above = f(x)
        x[index] = kept - h
        below = f(x)
        x[index] = kept
        gradient[index] = ((above - below) * dy).sum() / (2 * h)
    return gradient


def relative_error(a: Array, b: Array) -> float:
    """Largest difference beside the largest value: max|a - b| / max(|a|, |b|). Shapes must be equal."""
    assert np.shape(a) == np.shape(b), f"shapes differ: {np.shape(a)} and {np.shape(b)}"
    assert np.isfinite(a).all()
    assert np.isfinite(b).all()
    scale = max(np.abs(a).max(), np.abs(b).max())
    return float(np.abs(a - b).max() / scale) if scale > 0 else 0.0


def off_kinks(rng: np.random.Generator, shape: tuple[int, ...], kinks: tuple[float, ...], gap: float = 0.05) -> Array:
    """Normal numbers (standard deviation 4) of which none is within `gap` of a kink."""
    x = rng.normal(0, 4, shape)
    for kink in kinks:
        near = np.abs(x - kink) < gap
        x[near] = kink + np.where(x[near] < kink, -gap, gap) * 2
    return x
