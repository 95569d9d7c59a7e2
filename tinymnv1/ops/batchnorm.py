"""Batch normalisation (Ioffe and Szegedy 2015, arXiv 1502.03167, algorithm 1): one mean and variance a channel.

    xhat = (x - mean) / sqrt(var + eps)
    y    = gamma * xhat + beta

mean and var are taken over the M = N*H*W values that a channel has in this batch; var is the biased one (divided
by M). In evaluation the running averages of training stand in for both.
"""

import numpy as np

from tinymnv1.errors import ConfigError
from tinymnv1.ops.window import Array, require_gradient, require_images

Cache = tuple[Array, Array, Array]


def check_batchnorm(x: Array, gamma: Array, beta: Array) -> None:
    """Raise ConfigError unless x is (N, H, W, C) and gamma, beta are (C,)."""
    require_images(x, "batchnorm")
    if gamma.shape != x.shape[3:] or beta.shape != x.shape[3:]:
        raise ConfigError(
            f"batchnorm: gamma and beta must be ({x.shape[3]},) for x {x.shape}, got {gamma.shape} and {beta.shape}"
        )


def check_statistics(running_mean: Array, running_var: Array, gamma: Array) -> None:
    """Raise ConfigError unless the running statistics are (C,), like gamma."""
    if running_mean.shape != gamma.shape or running_var.shape != gamma.shape:
        shapes = f"{running_mean.shape} and {running_var.shape}"
        raise ConfigError(f"batchnorm: running_mean and running_var must be {gamma.shape}, got {shapes}")


def _mean(x: Array) -> Array:
    """The mean of each channel, (C,), over images and pixels.

    Summed in float64: NumPy adds pixel after pixel to one running sum, which outgrows float32's digits.
    """
    mean: Array = x.mean(axis=(0, 1, 2), dtype=np.float64)
    return mean.astype(x.dtype)


def batchnorm_forward(x: Array, gamma: Array, beta: Array, eps: float = 1e-5) -> tuple[Array, Cache, Array, Array]:
    """Normalise each channel with the statistics of this batch.

    x: (N, H, W, C), float32 or float64.  gamma, beta: (C,).  eps: added to the variance, so that a constant
    channel does not divide by zero.
    Returns y: (N, H, W, C), the cache for `batchnorm_backward`, mean: (C,) and var: (C,), biased.
    Raises ConfigError on shapes that do not fit.

    The variance takes a second pass over x - mean. The textbook short cut E[x^2] - E[x]^2 subtracts two large,
    nearly equal numbers and loses every digit in float32 when the mean is large beside the spread.
    """
    check_batchnorm(x, gamma, beta)
    mean = _mean(x)
    centred = x - mean
    centred -= _mean(centred)  # what rounding the mean has left over: it may be more than a channel's spread
    var = _mean(centred * centred)
    inv_std = 1 / np.sqrt(var + float(eps))  # a np.float64 would make float32 arrays float64
    xhat = centred * inv_std
    return gamma * xhat + beta, (xhat, gamma, inv_std), mean, var


def batchnorm_backward(dy: Array, cache: Cache) -> tuple[Array, Array, Array]:
    """Gradients of a loss L with respect to x, gamma and beta, given dy = dL/dy.

    dy: (N, H, W, C).  Returns dx: (N, H, W, C), dgamma: (C,), dbeta: (C,).

    Derivation, for one channel with values x_1 ... x_M. From y_i = gamma xhat_i + beta,

        dbeta  = sum_i dy_i
        dgamma = sum_i dy_i xhat_i
        g_i   := dL/dxhat_i = gamma dy_i

    x_k reaches the loss on three roads: directly through xhat_k, and through mean and var, which every xhat_i uses.
    With s = 1 / sqrt(var + eps), xhat_i = (x_i - mean) s, dmean/dx_k = 1/M, dvar/dx_k = 2 (x_k - mean) / M (the
    mean inside var adds nothing: the centred values sum to zero) and ds/dvar = -s^3 / 2:

        through xhat_k itself:   g_k s
        through the mean:        sum_i g_i (-s) * 1/M                                  = -s mean(g)
        through the variance:    sum_i g_i (x_i - mean) * (-s^3 / 2) * 2 (x_k - mean) / M   = -s xhat_k mean(g xhat)

        dx_k = s ( g_k  -  mean(g)  -  xhat_k mean(g xhat) )
                   1       2           3

    Terms 2 and 3 take out of g what batch norm would undo anyway: a shift of the channel and a stretch of it. So dx
    always sums to zero, and is orthogonal to xhat but for eps. Beware of checking this with dy = 1 everywhere: then
    g = mean(g) and mean(g xhat) = 0, dx is zero with or without term 3, and a wrong formula passes.
    """
    xhat, gamma, inv_std = cache
    require_gradient(dy, xhat.shape, "batchnorm")
    count = dy.size // len(gamma)
    dbeta = count * _mean(dy)
    dgamma = count * _mean(dy * xhat)
    g = gamma * dy
    dx = inv_std * (g - _mean(g) - xhat * _mean(g * xhat))
    return dx, dgamma, dbeta


def batchnorm_inference(
    x: Array, gamma: Array, beta: Array, running_mean: Array, running_var: Array, eps: float = 1e-5
) -> Array:
    """Normalise with the running statistics instead of the batch's: in evaluation an image's result is its own.

    x: (N, H, W, C).  gamma, beta, running_mean, running_var: (C,).  eps: as in training.  Returns y: (N, H, W, C).
    Raises ConfigError on shapes that do not fit.
    """
    check_batchnorm(x, gamma, beta)
    check_statistics(running_mean, running_var, gamma)
    scale = gamma / np.sqrt(running_var + float(eps))
    return (x - running_mean) * scale + beta
