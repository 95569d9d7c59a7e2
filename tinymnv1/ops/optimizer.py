"""What an optimizer does to an array of weights in one step, the two parts of clipping by the gradient's norm, and
the running average of weights.

Unlike the layers' ops these work in place, on arrays of any shape: the weights and the optimizer's own state change,
the gradient does not. The classes in `tinymnv1.optim` keep the state and choose the arrays.
"""

import math

import numpy as np

from tinymnv1.ops.window import Array

LITTLE = 0.1
"""A share of a moving average below which it counts as little: the rounding of what is lost would show."""


def sgd_step(
    w: Array,
    grad: Array,
    velocity: Array,
    lr: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> None:
    """One step of SGD with momentum (Sutskever et al. 2013, in PyTorch's arrangement).

        g = grad + weight_decay * w
        v = momentum * v + g
        w = w - lr * v                          or, with Nesterov,  w - lr * (g + momentum * v)

    w, grad, velocity: of one shape and dtype; w and velocity (v, zeros before the first step) change.
    """
    g = grad + weight_decay * w if weight_decay else grad
    velocity *= momentum
    velocity += g
    w -= lr * (g + momentum * velocity if nesterov else velocity)


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
    """One step of Adam (Kingma and Ba 2015, arXiv 1412.6980, algorithm 1).

        g = grad + weight_decay * w
        m = beta1 * m + (1 - beta1) * g         running mean of the gradient
        v = beta2 * v + (1 - beta2) * g^2       running mean of its square
        w = w - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    w, grad, mean (m), square (v): of one shape and dtype; all but grad change.  step: t, 1 at the first step.
    decoupled: AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2): g = grad, and w shrinks by the factor
    1 - lr * weight_decay first. That is PyTorch's form: the paper multiplies the decay by lr's schedule, not by lr.
    """
    g = grad
    if weight_decay and decoupled:
        w *= 1 - lr * weight_decay
    elif weight_decay:
        g = grad + weight_decay * w
    average_step(mean, g, beta1)
    average_step(square, g * g, beta2)
    correction1, correction2 = 1 - beta1**step, 1 - beta2**step
    w -= (lr / correction1) * mean / (np.sqrt(square) / math.sqrt(correction2) + eps)


def sum_of_squares(x: Array) -> float:
    """The sum of x^2 over all elements, added up in float64: float32 squares overflow from 1.8e19 on."""
    return float(np.square(x, dtype=np.float64).sum())


def scale_in_place(x: Array, factor: float) -> None:
    """x = factor * x."""
    x *= factor


def average_step(average: Array, x: Array, decay: float) -> None:
    """average = decay * average + (1 - decay) * x: one step of an exponential moving average; average changes.

    As a step from the average towards x, which stays where it is if the two are equal; with `decay` and 1 - decay as
    float32 they would not add up to 1. But such a step is rounded relative to the old average. If little of that is
    kept, it goes the other way round.
    """
    if decay < LITTLE:
        average[...] = x + decay * (average - x)
    else:
        average += (1 - decay) * (x - average)
