"""Plausible wrong answers to the exercises of 03_batchnorm_relu6: each must fail its check."""

WRONG = {
    "forward": [
        """
import numpy as np


def batchnorm_forward(x, gamma, beta, eps=1e-5):
    mean, var = x.mean(axis=0), x.var(axis=0)
    return gamma * (x - mean) / np.sqrt(var + eps) + beta, None, mean, var
""",
        """
import numpy as np


def batchnorm_forward(x, gamma, beta, eps=1e-5):
    axes = tuple(range(x.ndim - 1))
    mean, var = x.mean(axis=axes), x.var(axis=axes, ddof=1)
    return gamma * (x - mean) / np.sqrt(var + eps) + beta, None, mean, var
""",
        """
import numpy as np


def batchnorm_forward(x, gamma, beta, eps=1e-5):
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axis=axes)
    var = (x * x).mean(axis=axes) - mean * mean
    return gamma * (x - mean) / np.sqrt(np.abs(var) + eps) + beta, None, mean, var
""",
    ],
    "backward": [
        """
import numpy as np


def batchnorm_forward(x, gamma, beta, eps=1e-5):
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axis=axes)
    var = ((x - mean) ** 2).mean(axis=axes)
    inv_std = 1 / np.sqrt(var + eps)
    xhat = (x - mean) * inv_std
    return gamma * xhat + beta, (xhat, gamma, inv_std), mean, var


def batchnorm_backward(dy, cache):
    xhat, gamma, inv_std = cache
    axes = tuple(range(dy.ndim - 1))
    g = gamma * dy
    return inv_std * (g - g.mean(axis=axes)), (dy * xhat).sum(axis=axes), dy.sum(axis=axes)
""",
        """
import numpy as np


def batchnorm_forward(x, gamma, beta, eps=1e-5):
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axis=axes)
    var = ((x - mean) ** 2).mean(axis=axes)
    inv_std = 1 / np.sqrt(var + eps)
    xhat = (x - mean) * inv_std
    return gamma * xhat + beta, (xhat, gamma, inv_std), mean, var


def batchnorm_backward(dy, cache):
    xhat, gamma, inv_std = cache
    axes = tuple(range(dy.ndim - 1))
    dx = inv_std * (dy - dy.mean(axis=axes) - xhat * (dy * xhat).mean(axis=axes))
    return dx, (dy * xhat).sum(axis=axes), dy.sum(axis=axes)
""",
    ],
    "running": [
        """
def update_running(running_mean, running_var, mean, var, count, momentum=0.1):
    return (1 - momentum) * running_mean + momentum * mean, (1 - momentum) * running_var + momentum * var
""",
        """
def update_running(running_mean, running_var, mean, var, count, momentum=0.1):
    unbiased = var * count / (count - 1)
    return momentum * running_mean + (1 - momentum) * mean, momentum * running_var + (1 - momentum) * unbiased
""",
    ],
    "relu6": [
        """
import numpy as np


def relu6_forward(x):
    return np.clip(x, 0, 6), x > 0


def relu6_backward(dy, cache):
    return dy * cache
""",
        """
import numpy as np


def relu6_forward(x):
    return np.clip(x, 0, 6), x


def relu6_backward(dy, cache):
    return np.clip(dy, 0, 6)
""",
        """
import numpy as np


def relu6_forward(x):
    return np.clip(x, 0, 6), (x >= 0) & (x <= 6)


def relu6_backward(dy, cache):
    return dy * cache
""",
    ],
}
