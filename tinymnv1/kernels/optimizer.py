"""The optimizers' steps in Numba; the formulas are in `tinymnv1.ops.optimizer`.

Nothing here computes much: the time goes into moving the arrays through memory. So each step is one pass, shared out
among the threads, and no intermediate result is stored.
"""

import math

import numpy as np
from numba import prange

from tinymnv1.errors import ConfigError
from tinymnv1.kernels.compile import as_float32, parallel, serial
from tinymnv1.ops import optimizer as ops
from tinymnv1.ops.optimizer import LITTLE
from tinymnv1.ops.window import Array

BLOCK = 16384  # a piece of work: 64 KiB of each array of a step, together less than a core's L2 cache


@serial
def _sgd_block(w, grad, velocity, lr, momentum, nesterov, weight_decay):
    for i in range(w.size):
        g = grad[i] + weight_decay * w[i]
        v = momentum * velocity[i] + g
        velocity[i] = v
        w[i] -= lr * (g + momentum * v if nesterov else v)


@serial
def _adam_block(w, grad, mean, square, rate, beta1_rest, beta2_rest, root, eps, shrink, weight_decay):
    for i in range(w.size):
        g = grad[i] + weight_decay * w[i]
        m = mean[i] + beta1_rest * (g - mean[i])
        v = square[i] + beta2_rest * (g * g - square[i])
        mean[i] = m
        square[i] = v
        w[i] = shrink * w[i] - rate * m / (root * np.sqrt(v) + eps)


@serial
def _square(number):
    return np.float64(number) * np.float64(number)


@serial
def _sum_of_squares_block(x):
    # Four sums side by side: an addition takes four cycles, and each sum must wait for its last one.
    s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
    whole = x.size // 4 * 4
    for i in range(0, whole, 4):
        s0, s1, s2, s3 = s0 + _square(x[i]), s1 + _square(x[i + 1]), s2 + _square(x[i + 2]), s3 + _square(x[i + 3])
    for i in range(whole, x.size):
        s0 += _square(x[i])
    return (s0 + s1) + (s2 + s3)


@parallel
def _sgd(w, grad, velocity, lr, momentum, nesterov, weight_decay):
    for k in prange((w.size + BLOCK - 1) // BLOCK):
        a, b = k * BLOCK, (k + 1) * BLOCK
        _sgd_block(w[a:b], grad[a:b], velocity[a:b], lr, momentum, nesterov, weight_decay)


@parallel
def _adam(w, grad, mean, square, rate, beta1_rest, beta2_rest, root, eps, shrink, weight_decay):
    for k in prange((w.size + BLOCK - 1) // BLOCK):
        a, b = k * BLOCK, (k + 1) * BLOCK
        _adam_block(
            w[a:b],
            grad[a:b],
            mean[a:b],
            square[a:b],
            rate,
            beta1_rest,
            beta2_rest,
            root,
            eps,
            shrink,
            weight_decay,
        )


@parallel
def _sums_of_squares(x, sums):
    for k in prange(sums.size):
        sums[k] = _sum_of_squares_block(x[k * BLOCK : (k + 1) * BLOCK])


@serial
def _average_block(average, x, rest):
    for i in range(x.size):
        average[i] += rest * (x[i] - average[i])


@parallel
def _average(average, x, rest):
    for k in prange((x.size + BLOCK - 1) // BLOCK):
        a, b = k * BLOCK, (k + 1) * BLOCK
        _average_block(average[a:b], x[a:b], rest)


@parallel
def _scale(x, factor):
    for i in prange(x.size):
        x[i] *= factor


def _flat(**arrays: Array) -> list[Array]:
    """Each array as one row of numbers. They are changed in place, so none may need a copy for that."""
    shape = next(iter(arrays.values())).shape
    for name, array in arrays.items():
        if as_float32(array, name) is not array:
            raise ConfigError(f"{name} must be C-contiguous: the kernel works in place")
        if array.shape != shape:
            raise ConfigError(f"{name} must be {shape}, got {array.shape}")
    return [array.reshape(-1) for array in arrays.values()]


def sgd_step(
    w: Array,
    grad: Array,
    velocity: Array,
    lr: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> None:
    """As `tinymnv1.ops.sgd_step`, on C-contiguous float32 arrays."""
    f = np.float32
    _sgd(*_flat(w=w, grad=grad, velocity=velocity), f(lr), f(momentum), nesterov, f(weight_decay))


def adam_step(
    w: Array,
    grad: Array,
    mean: Array,
    square: Array,
    step: int,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
) -> None:
    """As `tinymnv1.ops.adam_step`, on C-contiguous float32 arrays."""
    if min(beta1, beta2) < LITTLE:  # nobody's setting: no kernel for the other way round
        _flat(w=w, grad=grad, mean=mean, square=square)
        ops.adam_step(w, grad, mean, square, step, lr, beta1, beta2, eps, weight_decay, decoupled)
        return
    shrink, weight_decay = (1 - lr * weight_decay, 0.0) if decoupled else (1.0, weight_decay)
    rate, root = lr / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step)
    numbers = (rate, 1 - beta1, 1 - beta2, root, eps, shrink, weight_decay)
    _adam(*_flat(w=w, grad=grad, mean=mean, square=square), *(np.float32(number) for number in numbers))


def sum_of_squares(x: Array) -> float:
    """As `tinymnv1.ops.sum_of_squares`, float32 only: the blocks' sums are in float64, and added in order."""
    x = as_float32(x, "x").reshape(-1)
    sums = np.zeros(-(-x.size // BLOCK))
    _sums_of_squares(x, sums)
    return float(sums.sum())


def scale_in_place(x: Array, factor: float) -> None:
    """As `tinymnv1.ops.scale_in_place`, on a C-contiguous float32 array."""
    _scale(*_flat(x=x), np.float32(factor))


def average_step(average: Array, x: Array, decay: float) -> None:
    """As `tinymnv1.ops.average_step`, on C-contiguous float32 arrays."""
    average, x = _flat(average=average, x=x)
    if decay < LITTLE:
        ops.average_step(average, x, decay)
    else:
        _average(average, x, np.float32(1 - decay))
