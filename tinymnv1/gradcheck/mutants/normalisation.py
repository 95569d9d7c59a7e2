"""Mutants of batch norm: the op with the most ways to be nearly right."""

from typing import Any

import numpy as np

from tinymnv1 import ops
from tinymnv1.gradcheck.mutants.catalogue import Functions, mutant
from tinymnv1.ops.window import Array

AXES = (0, 1, 2)


def _backward_with(dx_of: Any) -> Functions:
    """batchnorm_backward with another dx: dx_of(dy, xhat, gamma, inv_std)."""

    def batchnorm_backward(dy: Array, cache: Any) -> Any:
        _, dgamma, dbeta = ops.batchnorm_backward(dy, cache)
        return dx_of(dy, *cache), dgamma, dbeta

    return {"batchnorm_backward": batchnorm_backward}


@mutant("batchnorm", "third term missing")
def batchnorm_no_third_term() -> Functions:
    """dx leaves out the road through the variance."""
    return _backward_with(lambda dy, xhat, gamma, inv: inv * gamma * (dy - dy.mean(axis=AXES)))


@mutant("batchnorm", "mean term missing")
def batchnorm_no_mean_term() -> Functions:
    """dx leaves out the road through the mean."""
    return _backward_with(lambda dy, xhat, gamma, inv: inv * gamma * (dy - xhat * (dy * xhat).mean(axis=AXES)))


@mutant("batchnorm", "statistics treated as constants")
def batchnorm_constant_statistics() -> Functions:
    """dx takes mean and variance for constants, as they are in evaluation."""
    return _backward_with(lambda dy, xhat, gamma, inv: inv * gamma * dy)


@mutant("batchnorm", "gamma missing")
def batchnorm_no_gamma() -> Functions:
    """dx starts from dy instead of gamma * dy."""
    return _backward_with(
        lambda dy, xhat, gamma, inv: inv * (dy - dy.mean(axis=AXES) - xhat * (dy * xhat).mean(axis=AXES))
    )


@mutant("batchnorm", "inverse std missing")
def batchnorm_no_inverse_std() -> Functions:
    """dx is not divided by the standard deviation."""
    return _backward_with(
        lambda dy, xhat, gamma, inv: gamma * (dy - dy.mean(axis=AXES) - xhat * (dy * xhat).mean(axis=AXES))
    )


@mutant("batchnorm", "sum instead of mean")
def batchnorm_sums() -> Functions:
    """dx subtracts sums where means belong."""
    return _backward_with(
        lambda dy, xhat, gamma, inv: inv * gamma * (dy - dy.sum(axis=AXES) - xhat * (dy * xhat).sum(axis=AXES))
    )


@mutant("batchnorm", "x instead of xhat")
def batchnorm_dgamma_from_x() -> Functions:
    """dgamma multiplies dy by x; the cache kept the wrong array."""

    def batchnorm_forward(x: Array, gamma: Array, beta: Array, eps: float = 1e-5) -> Any:
        y, cache, mean, var = ops.batchnorm_forward(x, gamma, beta, eps)
        return y, (x, cache), mean, var

    def batchnorm_backward(dy: Array, cache: Any) -> Any:
        x, inner = cache
        dx, _, dbeta = ops.batchnorm_backward(dy, inner)
        return dx, (dy * x).sum(axis=AXES), dbeta

    return {"batchnorm_forward": batchnorm_forward, "batchnorm_backward": batchnorm_backward}


@mutant("batchnorm", "gamma and beta swapped")
def batchnorm_gradients_swapped() -> Functions:
    """backward returns dx, dbeta, dgamma. Both have the same shape, so nothing complains."""

    def batchnorm_backward(dy: Array, cache: Any) -> Any:
        dx, dgamma, dbeta = ops.batchnorm_backward(dy, cache)
        return dx, dbeta, dgamma

    return {"batchnorm_backward": batchnorm_backward}


def _forward_with(inverse_std: Any, axes: tuple[int, ...] = AXES, unbiased: int = 0) -> Functions:
    """batchnorm_forward with other statistics; backward fits what it keeps."""

    def batchnorm_forward(x: Array, gamma: Array, beta: Array, eps: float = 1e-5) -> Any:
        mean, var = x.mean(axis=axes), x.var(axis=axes, ddof=unbiased)
        inv = inverse_std(var, eps)
        xhat = (x - mean) * inv
        return gamma * xhat + beta, (xhat, gamma, inv), mean, var

    def batchnorm_backward(dy: Array, cache: Any) -> Any:
        xhat, gamma, inv = cache
        g = gamma * dy
        dx = inv * (g - g.mean(axis=axes) - xhat * (g * xhat).mean(axis=axes))
        return dx, (dy * xhat).sum(axis=AXES), dy.sum(axis=AXES)

    return {"batchnorm_forward": batchnorm_forward, "batchnorm_backward": batchnorm_backward}


@mutant("batchnorm", "wrong axes")
def batchnorm_over_the_batch_only() -> Functions:
    """Mean and variance are taken over the batch alone, for every pixel by itself."""
    return _forward_with(lambda var, eps: 1 / np.sqrt(var + var.dtype.type(eps)), axes=(0,))


@mutant("batchnorm", "unbiased variance")
def batchnorm_unbiased() -> Functions:
    """The variance is divided by M - 1."""
    return _forward_with(lambda var, eps: 1 / np.sqrt(var + var.dtype.type(eps)), unbiased=1)


@mutant("batchnorm", "eps in the wrong place")
def batchnorm_eps_outside() -> Functions:
    """sqrt(var) + eps instead of sqrt(var + eps)."""
    return _forward_with(lambda var, eps: 1 / (np.sqrt(var) + var.dtype.type(eps)))


@mutant("batchnorm", "variance by E[x^2] - E[x]^2")
def batchnorm_one_pass_variance() -> Functions:
    """The variance is E[x^2] - E[x]^2: right in exact arithmetic, useless in float32 where the mean is large."""

    def batchnorm_forward(x: Array, gamma: Array, beta: Array, eps: float = 1e-5) -> Any:
        mean = x.mean(axis=AXES)
        var = np.maximum((x * x).mean(axis=AXES) - mean * mean, 0)
        inv = 1 / np.sqrt(var + x.dtype.type(eps))
        xhat = (x - mean) * inv
        return gamma * xhat + beta, (xhat, gamma, inv), mean, var

    return {"batchnorm_forward": batchnorm_forward}


@mutant("batchnorm_inference", "batch statistics in evaluation")
def batchnorm_inference_uses_the_batch() -> Functions:
    """Evaluation normalises with the batch's own statistics: the running ones are handed in and not used."""

    def batchnorm_inference(
        x: Array, gamma: Array, beta: Array, running_mean: Array, running_var: Array, eps: float = 1e-5
    ) -> Array:
        return ops.batchnorm_forward(x, gamma, beta, eps)[0]

    return {"batchnorm_inference": batchnorm_inference}
