"""Plausible wrong answers to the exercises of 05_gradient_checking: each must fail its check."""

WRONG = {
    "step": [
        """
def best_step(eps, p):
    return eps ** (1 / p)


def best_error(eps, p):
    return eps
""",
        """
def best_step(eps, p):
    return eps ** (1 / (p + 1))


def best_error(eps, p):
    return eps ** (1 / (p + 1))
""",
    ],
    "numeric": [
        """
import numpy as np


def numeric_gradient(f, x, dy, h=6e-6):
    x, gradient = x.copy(), np.empty_like(x)
    for place in np.ndindex(x.shape):
        x[place] += h
        above = (dy * f(x)).sum()
        x[place] -= h
        gradient[place] = (above - (dy * f(x)).sum()) / (2 * h)
    return gradient
""",
        """
import numpy as np


def numeric_gradient(f, x, dy, h=6e-6):
    x, gradient = x.copy(), np.empty_like(x)
    for place in np.ndindex(x.shape):
        kept = x[place]
        x[place] = kept + h
        above = f(x).sum()
        x[place] = kept - h
        gradient[place] = (above - f(x).sum()) / (2 * h)
        x[place] = kept
    return gradient
""",
        """
import numpy as np


def numeric_gradient(f, x, dy, h=6e-6):
    x, gradient = x.copy(), np.empty_like(x)
    here = (dy * f(x)).sum()
    for place in np.ndindex(x.shape):
        kept = x[place]
        x[place] = kept + h
        gradient[place] = ((dy * f(x)).sum() - here) / h  # one-sided
        x[place] = kept
    return gradient
""",
        """
import numpy as np


def numeric_gradient(f, x, dy, h=6e-6):
    gradient = np.empty_like(x)
    for place in np.ndindex(x.shape):
        x[place] += h
        above = (dy * f(x)).sum()
        x[place] -= 2 * h
        below = (dy * f(x)).sum()
        x[place] += h  # in the caller's array, and not back to the bit
        gradient[place] = (above - below) / (2 * h)
    return gradient
""",
    ],
    "silu": [
        """
import numpy as np


def silu_forward(x):
    s = 1 / (1 + np.exp(-x))
    return x * s, (x, s)


def silu_backward(dy, cache):
    x, s = cache
    return dy * (s + s * (1 - s))
""",
        """
import numpy as np


def silu_forward(x):
    s = 1 / (1 + np.exp(-x))
    return x * s, (x, s)


def silu_backward(dy, cache):
    x, s = cache
    return dy * x * s * (1 - s)
""",
        """
import numpy as np


def silu_forward(x):
    s = 1 / (1 + np.exp(-x))
    return x * s, (x, s)


def silu_backward(dy, cache):
    x, s = cache
    return dy * (s - x * s * (1 - s))
""",
        """
import numpy as np


def silu_forward(x):
    s = 1 / (1 + np.exp(-x))
    return x + s, (x, s)


def silu_backward(dy, cache):
    x, s = cache
    return dy * (1 + s * (1 - s))
""",
    ],
    "lab": [
        """
import numpy as np

from tinymnv1.gradcheck import check_gradient


def check_batchnorm(ops):
    rng = np.random.default_rng(0)
    x, gamma, beta = rng.normal(1, 2, (3, 2, 2, 2)), rng.uniform(0.5, 2, 2), rng.normal(size=2)
    assert check_gradient(ops.batchnorm_forward, ops.batchnorm_backward, {"x": x, "gamma": gamma, "beta": beta}).passed
""",
        """
def check_batchnorm(ops):
    assert False  # catches every mutant, and the right op, too
""",
        """
import numpy as np

from tinymnv1.gradcheck import check_gradient


def check_batchnorm(ops):
    rng = np.random.default_rng(0)
    x, gamma, beta = rng.normal(1, 2, (3, 2, 2, 2)), rng.uniform(0.5, 2, 2), rng.normal(size=2)
    assert check_gradient(ops.batchnorm_forward, ops.batchnorm_backward, {"x": x, "gamma": gamma, "beta": beta}).passed
    y, _, mean, var = ops.batchnorm_forward(x, gamma, beta)
    flat = x.reshape(-1, 2)
    assert np.allclose(var, flat.var(axis=0))  # in float64 the quick variance is right, too
    assert np.allclose(y, gamma * (x - flat.mean(axis=0)) / np.sqrt(flat.var(axis=0) + 1e-5) + beta)
""",
        """
def check_batchnorm(ops):
    assert chekc(ops.batchnorm_forward)  # a slip of the pen: every op is objected to
""",
    ],
}
