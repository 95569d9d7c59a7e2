"""Plausible wrong answers to the exercises of 04_pooling_linear_loss: each must fail its check."""

WRONG = {
    "global_mean": [
        """
import numpy as np


def global_avgpool_forward(x):
    return x.mean(axis=(1, 2)), x.shape


def global_avgpool_backward(dy, cache):
    return np.broadcast_to(dy[:, None, None, :], cache).copy()
""",
        """
import numpy as np


def global_avgpool_forward(x):
    n, h, w, c = x.shape
    return x.reshape(n, c, h * w).mean(axis=2), x.shape


def global_avgpool_backward(dy, cache):
    n, h, w, c = cache
    return np.broadcast_to(dy[:, None, None, :] / (h * w), cache).copy()
""",
        """
import numpy as np


def global_avgpool_forward(x):
    return x.mean(axis=(1, 2)), x.shape


def global_avgpool_backward(dy, cache):
    return np.broadcast_to(dy[:, None, None, :] / cache[1] ** 2, cache).copy()  # as if all maps were square
""",
    ],
    "linear": [
        """
import numpy as np


def linear_forward(x, w, b):
    return x @ w + b, (x, w)


def linear_backward(dy, cache):
    x, w = cache
    return dy @ w.T, x.T @ dy, dy.mean(axis=0)
""",
        """
import numpy as np


def linear_forward(x, w, b):
    return x @ w + b, (x, w)


def linear_backward(dy, cache):
    x, w = cache
    return dy @ w.T, x.T @ dy / len(x), dy.sum(axis=0)
""",
    ],
    "loss": [
        """
import numpy as np


def cross_entropy(logits, labels):
    n = len(labels)
    with np.errstate(all="ignore"):
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    dlogits = p.copy()
    dlogits[np.arange(n), labels] -= 1
    with np.errstate(all="ignore"):
        return -np.log(p[np.arange(n), labels]).mean(), dlogits / n
""",
        """
import numpy as np


def cross_entropy(logits, labels):
    n = len(labels)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    dlogits = np.exp(log_p)
    dlogits[np.arange(n), labels] -= 1
    return -log_p[np.arange(n), labels].mean(), dlogits
""",
        """
import numpy as np


def cross_entropy(logits, labels):
    n = len(labels)
    shifted = logits - logits.max()  # of the batch, not of each row
    with np.errstate(all="ignore"):
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    dlogits = np.exp(log_p)
    dlogits[np.arange(n), labels] -= 1
    return -log_p[np.arange(n), labels].mean(), dlogits / n
""",
        """
import numpy as np


def cross_entropy(logits, labels):
    n = len(labels)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    loss = -np.log(p[np.arange(n), labels] + 1e-12).mean()
    p[np.arange(n), labels] -= 1
    return loss, p / n
""",
    ],
    "smoothing": [
        """
import math


def lowest_loss(smoothing, classes):
    if smoothing == 0:
        return 0.0
    return -math.log(1 - smoothing + smoothing / classes)
""",
        """
import math


def lowest_loss(smoothing, classes):
    if smoothing in (0, 1):
        return 0.0
    other, right = smoothing / (classes - 1), 1 - smoothing
    return -right * math.log(right) - (classes - 1) * other * math.log(other)
""",
    ],
}
