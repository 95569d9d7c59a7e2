"""Plausible wrong answers to the exercises of 07_training: each must fail its check."""

WRONG = {
    "momentum": [
        """
def momentum_step(w, v, g, lr, mu, nesterov=False):
    v = mu * v + (1 - mu) * g
    return w - lr * (g + mu * v if nesterov else v), v
""",
        """
def momentum_step(w, v, g, lr, mu, nesterov=False):
    ahead = g + mu * v
    return w - lr * ahead, ahead
""",
        """
def momentum_step(w, v, g, lr, mu, nesterov=False):
    v *= mu  # in the caller's array
    v += g
    return w - lr * (g + mu * v if nesterov else v), v
""",
    ],
    "adam": [
        """
import numpy as np


def adam_update(w, m, v, g, t, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    return w - lr * m / (np.sqrt(v) + eps), m, v
""",
        """
import numpy as np


def adam_update(w, m, v, g, t, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    m = (beta1 * m + (1 - beta1) * g) / (1 - beta1**t)
    v = (beta2 * v + (1 - beta2) * g**2) / (1 - beta2**t)
    return w - lr * m / (np.sqrt(v) + eps), m, v
""",
        """
import numpy as np


def adam_update(w, m, v, g, t, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    return w - lr * (m / (1 - beta1**t)) / np.sqrt(v / (1 - beta2**t) + eps), m, v  # eps inside the root
""",
    ],
    "schedule": [
        """
import math


def rate(step, lr, total, warmup):
    cosine = lr * (1 + math.cos(math.pi * step / total)) / 2
    return cosine * min(step / warmup, 1) if warmup else cosine
""",
        """
import math


def rate(step, lr, total, warmup):
    cosine = lr * math.cos(math.pi * step / total / 2)
    return cosine * min((step + 1) / warmup, 1) if warmup else cosine
""",
        """
import math


def rate(step, lr, total, warmup):
    if step < warmup:
        return lr * (step + 1) / warmup  # not multiplied with the cosine, which begins only now
    return lr * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
""",
    ],
    "diagnose": [
        """
diagnosis = {
    "A": "rate too high",
    "B": "statistics lost",
    "C": "rate too low",
    "D": "overfitting",
    "E": "labels wrong",
    "F": "training mode",
}
""",
        """
diagnosis = {
    "A": "rate too high",
    "B": "overfitting",
    "C": "labels wrong",
    "D": "statistics lost",
    "E": "rate too low",
    "F": "training mode",
}
""",
        """
diagnosis = {
    "A": "rate too high",
    "B": "overfitting",
    "C": "rate too low",
    "D": "training mode",
    "E": "labels wrong",
    "F": "statistics lost",
}
""",
    ],
}
