"""What the tests measure with: the relative error used throughout, and inputs that keep away from kinks."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def relative_error(a: Array, b: Array, scale: float = 0.0) -> float:
    """Largest difference beside the largest value: max|a - b| / max(|a|, |b|, scale). Shapes must be equal.

    scale: the size of the terms that were summed, where they may cancel: rounding is relative to them.
    """
    assert np.shape(a) == np.shape(b), f"shapes differ: {np.shape(a)} and {np.shape(b)}"
    assert np.isfinite(a).all()
    assert np.isfinite(b).all()
    scale = max(np.abs(a).max(), np.abs(b).max(), scale)
    return float(np.abs(a - b).max() / scale) if scale > 0 else 0.0


def off_kinks(rng: np.random.Generator, shape: tuple[int, ...], kinks: tuple[float, ...], gap: float = 0.05) -> Array:
    """Normal numbers (standard deviation 4) of which none is within `gap` of a kink."""
    x = rng.normal(0, 4, shape)
    for kink in kinks:
        near = np.abs(x - kink) < gap
        x[near] = kink + np.where(x[near] < kink, -gap, gap) * 2
    return x
