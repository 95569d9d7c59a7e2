"""What batch norm gives under each common mistake."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinymnv1.gradcheck.diagnosis.causes import Candidate
from tinymnv1.ops.window import Array

AXES = (0, 1, 2)


def candidates(inputs: dict[str, Any], options: dict[str, Any], dy: Array) -> Iterator[Candidate]:
    """Wrong y, mean, var, dx, dgamma and dbeta of the training form."""
    x, gamma, beta, eps = inputs["x"], inputs["gamma"], inputs["beta"], options.get("eps", 1e-5)
    mean, var = x.mean(axis=AXES), x.var(axis=AXES)
    centred = x - mean
    count = x.size // x.shape[3]
    unbiased = var * count / max(count - 1, 1)
    yield "var", "unbiased variance", unbiased
    yield "var", "standard deviation instead of variance", np.sqrt(var)
    yield "var", "sum instead of mean", var * count
    yield "mean", "sum instead of mean", mean * count
    for axes in ((0,), (1, 2), (0, 1, 2, 3), (3,)):
        around = x - x.mean(axis=axes, keepdims=True)
        inv = 1 / np.sqrt(x.var(axis=axes, keepdims=True) + eps)
        yield "y", "wrong axes", gamma * around * inv + beta
        yield "dx", "wrong axes", _dx(around * inv, gamma * dy, inv, axes)
        yield "dgamma", "wrong axes", (dy * around * inv).sum(axis=AXES)
    inverse = {
        "": 1 / np.sqrt(var + eps),
        "unbiased variance": 1 / np.sqrt(unbiased + eps),
        "eps in the wrong place": 1 / (np.sqrt(var) + eps),
        "inverse std missing": np.ones_like(var),
        "standard deviation instead of variance": 1 / (var + eps),
    }
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse["eps in the wrong place "] = 1 / np.sqrt(var)
    for name, inv in inverse.items():
        cause = name.strip()
        xhat = centred * inv
        if cause:
            yield "y", cause, gamma * xhat + beta
            yield "dx", cause, _dx(xhat, gamma * dy, inv, AXES)
            yield "dgamma", cause, (dy * xhat).sum(axis=AXES)
    inv = inverse[""]
    xhat, g = centred * inv, gamma * dy
    mean_g, mean_gx = g.mean(axis=AXES), (g * xhat).mean(axis=AXES)
    yield "y", "gamma missing", xhat + beta
    yield "y", "beta missing", gamma * xhat
    yield "y", "gamma and beta swapped", beta * xhat + gamma
    yield "y", "x instead of xhat", gamma * x * inv + beta
    yield "dx", "third term missing", inv * (g - mean_g)
    yield "dx", "mean term missing", inv * (g - xhat * mean_gx)
    yield "dx", "statistics treated as constants", inv * g
    yield "dx", "gamma missing", _dx(xhat, dy, inv, AXES)
    yield "dx", "inverse std missing", g - mean_g - xhat * mean_gx
    yield "dx", "x instead of xhat", inv * (g - mean_g - x * (g * x).mean(axis=AXES))
    yield "dx", "x instead of xhat", inv * (g - mean_g - centred * (g * centred).mean(axis=AXES))
    yield "dx", "sum instead of mean", inv * (g - count * mean_g - xhat * count * mean_gx)
    yield "dx", "mean instead of sum", inv * (g - mean_g - xhat * mean_gx) / count
    dgamma, dbeta = (dy * xhat).sum(axis=AXES), dy.sum(axis=AXES)
    yield "dgamma", "x instead of xhat", (dy * x).sum(axis=AXES)
    yield "dgamma", "inverse std missing", (dy * centred).sum(axis=AXES)
    yield "dgamma", "gamma and beta swapped", dbeta
    yield "dbeta", "gamma and beta swapped", dgamma
    for name, right in (("dgamma", dgamma), ("dbeta", dbeta)):
        yield name, "mean instead of sum", right / count
        yield name, "divided by the batch", right / len(x)
    yield "dbeta", "wrong axes", np.full_like(dbeta, dy.sum())


def _dx(xhat: Array, g: Array, inv: Array, axes: tuple[int, ...]) -> Array:
    return inv * (g - g.mean(axis=axes, keepdims=True) - xhat * (g * xhat).mean(axis=axes, keepdims=True))


def inference_candidates(inputs: dict[str, Any], options: dict[str, Any], dy: Array | None) -> Iterator[Candidate]:
    """Wrong y of batchnorm_inference."""
    x, gamma, beta, mean, var = inputs.values()
    eps = options.get("eps", 1e-5)

    def normalise(m: Array, v: Array) -> Array:
        return (x - m) / np.sqrt(v + eps)

    yield "y", "batch statistics in evaluation", gamma * normalise(x.mean(axis=AXES), x.var(axis=AXES)) + beta
    yield "y", "eps in the wrong place", gamma * (x - mean) / (np.sqrt(var) + eps) + beta
    yield "y", "eps in the wrong place", gamma * (x - mean) / np.sqrt(var) + beta
    yield "y", "standard deviation instead of variance", gamma * (x - mean) / (var + eps) + beta
    yield "y", "gamma missing", normalise(mean, var) + beta
    yield "y", "beta missing", gamma * normalise(mean, var)
    yield "y", "gamma and beta swapped", beta * normalise(mean, var) + gamma
