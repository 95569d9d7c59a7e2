"""Batch normalisation in Numba; the mathematics and its derivation are in `tinymnv1.ops.batchnorm`.

Everything works on x as a matrix of M = N*H*W pixels by C channels. Each channel's sums run over M values, hundreds of
thousands in the first layers: adding them one by one in float32 would lose digits. So pixels are summed in blocks of
`BLOCK` in float32, and the blocks in float64. What a block's sum still rounds off, up to 1e-6 of a mean, is much beside
the spread of a channel that is nearly constant: the deviations from this first mean are summed, too, and correct it.
The cache has the mean in float64, and what float32 cannot hold of it is made good with the shift.

Where xhat is needed, x - mean is taken first. To fold the mean into the shift, scale * x + (beta - scale * mean),
spares a subtraction; but where the mean is large beside the spread it subtracts two large numbers after both were
rounded.
"""

import numpy as np
from numba import prange

from tinymnv1.kernels.compile import CHUNKS, aligned_like, as_float32, gradient_of, parallel, serial
from tinymnv1.ops.batchnorm import check_batchnorm, check_statistics
from tinymnv1.ops.window import Array

Cache = tuple[Array, Array, Array, Array]

BLOCK = 64


@serial
def _sum_chunk(x, total, start, stop):
    """total[c] = sum of x[start:stop, c]."""
    channels = x.shape[1]
    block = np.empty(channels, np.float32)
    for first in range(start, stop, BLOCK):
        block[:] = 0
        for m in range(first, min(first + BLOCK, stop)):
            for c in range(channels):
                block[c] += x[m, c]
        for c in range(channels):
            total[c] += block[c]


@serial
def _sum_deviations_chunk(x, mean, deviation, square, start, stop):
    """deviation[c] = sum of x[start:stop, c] - mean[c], square[c] = sum of their squares."""
    channels = x.shape[1]
    block, block_square = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for first in range(start, stop, BLOCK):
        block[:] = 0
        block_square[:] = 0
        for m in range(first, min(first + BLOCK, stop)):
            for c in range(channels):
                away = x[m, c] - mean[c]
                block[c] += away
                block_square[c] += away * away
        for c in range(channels):
            deviation[c] += block[c]
            square[c] += block_square[c]


@serial
def _sum_gradients_chunk(dy, x, mean, inv_std, dbeta, dgamma, start, stop):
    """dbeta[c] = sum of dy[start:stop, c], dgamma[c] = sum of dy * xhat."""
    channels = x.shape[1]
    block_beta, block_gamma = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for first in range(start, stop, BLOCK):
        block_beta[:] = 0
        block_gamma[:] = 0
        for m in range(first, min(first + BLOCK, stop)):
            for c in range(channels):
                block_beta[c] += dy[m, c]
                block_gamma[c] += dy[m, c] * (x[m, c] - mean[c]) * inv_std[c]
        for c in range(channels):
            dbeta[c] += block_beta[c]
            dgamma[c] += block_gamma[c]


@parallel
def _sum(x, partial):
    chunks = partial.shape[0]
    for k in prange(chunks):
        _sum_chunk(x, partial[k], k * x.shape[0] // chunks, (k + 1) * x.shape[0] // chunks)


@parallel
def _sum_deviations(x, mean, partial):
    chunks = partial.shape[0]
    for k in prange(chunks):
        first, last = k * x.shape[0] // chunks, (k + 1) * x.shape[0] // chunks
        _sum_deviations_chunk(x, mean, partial[k, 0], partial[k, 1], first, last)


@parallel
def _sum_gradients(dy, x, mean, inv_std, partial):
    chunks = partial.shape[0]
    for k in prange(chunks):
        first, last = k * x.shape[0] // chunks, (k + 1) * x.shape[0] // chunks
        _sum_gradients_chunk(dy, x, mean, inv_std, partial[k, 0], partial[k, 1], first, last)


@parallel
def _normalise(x, mean, scale, beta, y):
    """y[m, c] = scale[c] * (x[m, c] - mean[c]) + beta[c]."""
    for m in prange(x.shape[0]):
        for c in range(x.shape[1]):
            y[m, c] = scale[c] * (x[m, c] - mean[c]) + beta[c]


@parallel
def _backward(dy, x, mean, scale, along_x, shift, dx):
    """dx[m, c] = scale[c] * dy[m, c] + along_x[c] * (x[m, c] - mean[c]) + shift[c]."""
    for m in prange(x.shape[0]):
        for c in range(x.shape[1]):
            dx[m, c] = scale[c] * dy[m, c] + along_x[c] * (x[m, c] - mean[c]) + shift[c]


def batchnorm_forward(x: Array, gamma: Array, beta: Array, eps: float = 1e-5) -> tuple[Array, Cache, Array, Array]:
    """As `tinymnv1.ops.batchnorm_forward`, float32 only: x (N, H, W, C) -> y, cache, mean (C,), var (C,) biased."""
    check_batchnorm(x, gamma, beta)
    x, gamma, beta = as_float32(x, "x"), as_float32(gamma, "gamma"), as_float32(beta, "beta")
    pixels = x.reshape(-1, x.shape[3])  # (M, C)
    count, channels = pixels.shape
    chunks = min(CHUNKS, count)
    partial = np.zeros((chunks, channels))
    _sum(pixels, partial)
    rough = (partial.sum(axis=0) / count).astype(np.float32)
    partial = np.zeros((chunks, 2, channels))
    _sum_deviations(pixels, rough, partial)
    deviation, square = partial.sum(axis=0) / count  # float64, (C,) each
    exact = rough + deviation
    mean = exact.astype(np.float32)
    var = (square - deviation**2).astype(np.float32)
    inv_std = 1 / np.sqrt(var + np.float32(eps))
    y = aligned_like(x)
    scale = gamma * inv_std
    _normalise(pixels, mean, scale, (beta - scale * (exact - mean)).astype(np.float32), y.reshape(pixels.shape))
    return y, (x, gamma, exact, inv_std), mean, var


def batchnorm_backward(dy: Array, cache: Cache) -> tuple[Array, Array, Array]:
    """As `tinymnv1.ops.batchnorm_backward`: dy (N, H, W, C) -> dx (N, H, W, C), dgamma (C,), dbeta (C,).

    dx = s (g - mean(g) - xhat mean(g xhat)) with g = gamma dy, mean(g) = gamma dbeta / M and mean(g xhat) =
    gamma dgamma / M. Writing xhat = s (x - mean) out gives  a dy + b (x - mean) + c  with four numbers a channel.
    """
    x, gamma, exact, inv_std = cache
    mean = exact.astype(np.float32)
    dy = gradient_of(x.shape, dy, "batchnorm")
    pixels = x.reshape(-1, x.shape[3])
    dy_pixels = dy.reshape(pixels.shape)
    count, channels = pixels.shape
    partial = np.zeros((min(CHUNKS, count), 2, channels))
    _sum_gradients(dy_pixels, pixels, mean, inv_std, partial)
    dbeta, dgamma = partial.sum(axis=0)  # float64, (C,) each
    dgamma -= (exact - mean) * inv_std * dbeta
    scale = (gamma * inv_std).astype(np.float64)
    along_x = -scale * inv_std * dgamma / count
    shift = -scale * dbeta / count - along_x * (exact - mean)
    dx = aligned_like(x)
    _backward(
        dy_pixels,
        pixels,
        mean,
        scale.astype(np.float32),
        along_x.astype(np.float32),
        shift.astype(np.float32),
        dx.reshape(pixels.shape),
    )
    return dx, dgamma.astype(np.float32), dbeta.astype(np.float32)


def batchnorm_inference(
    x: Array, gamma: Array, beta: Array, running_mean: Array, running_var: Array, eps: float = 1e-5
) -> Array:
    """As `tinymnv1.ops.batchnorm_inference`, float32 only: x (N, H, W, C) -> y."""
    check_batchnorm(x, gamma, beta)
    check_statistics(running_mean, running_var, gamma)
    x, gamma, beta = as_float32(x, "x"), as_float32(gamma, "gamma"), as_float32(beta, "beta")
    running_mean, running_var = as_float32(running_mean, "running_mean"), as_float32(running_var, "running_var")
    scale = gamma / np.sqrt(running_var + np.float32(eps))
    y = aligned_like(x)
    pixels = x.reshape(-1, x.shape[3])
    _normalise(pixels, running_mean, scale, beta, y.reshape(pixels.shape))
    return y
