"""Softmax and cross-entropy in one op. Apart, the logarithm of a probability that was rounded to 0 is -inf; together
nothing overflows, and the gradient is one line."""

import numpy as np

from tinymnv1.errors import ConfigError
from tinymnv1.ops.window import Array


def softmax(logits: Array) -> Array:
    """Probabilities of each class. logits: (N, classes). Returns (N, classes), rows summing to 1.

    The largest logit of a row is subtracted first. It changes nothing, since exp(a - m) / sum exp(b - m) cancels
    exp(-m), and without it exp overflows at 89 in float32.
    """
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def check_labels(labels: Array, images: int, classes: int) -> None:
    """Raise ConfigError unless labels are one integer in [0, classes) for each image."""
    if labels.shape != (images,):
        raise ConfigError(f"cross-entropy: labels must be (N,) with N = {images} as the images, got {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0 or labels.max(initial=0) >= classes:
        raise ConfigError(f"cross-entropy: labels must be integers from 0 to {classes - 1}")


def check_smoothing(label_smoothing: float) -> None:
    """Raise ConfigError unless it is in [0, 1]."""
    if not 0 <= label_smoothing <= 1:
        raise ConfigError(f"cross-entropy: label_smoothing must be in [0, 1], got {label_smoothing}")


def softmax_cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0) -> tuple[float, Array]:
    """Mean cross-entropy of a batch, and its gradient.

    logits: (N, classes), float.  labels: (N,) integers in [0, classes).
    label_smoothing: e in [0, 1]; the target is 1 - e + e / classes on the label and e / classes elsewhere
    (Szegedy et al. 2016, arXiv 1512.00567, section 7).
    Returns the loss (a float, in nats) and dlogits: (N, classes). Raises ConfigError on labels, shapes or dtypes
    that do not fit.

    Derivation. With p = softmax(z), log p_c = z_c - log sum exp z, so for a target t that sums to 1

        L = -sum_c t_c log p_c = log sum exp z - sum_c t_c z_c
        dL/dz_c = exp(z_c) / sum exp z - t_c = p_c - t_c

    and the mean over the batch divides by N. That N is divided out here, once: nothing after this may do it again.
    """
    if logits.ndim != 2 or logits.size == 0:
        raise ConfigError(f"cross-entropy: logits must be (N, classes) and not empty, got {logits.shape}")
    if logits.dtype not in (np.float32, np.float64):
        raise ConfigError(f"cross-entropy: logits must be float32 or float64, got {logits.dtype}")
    n, classes = logits.shape
    check_labels(labels, n, classes)
    check_smoothing(label_smoothing)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))  # (N, classes)
    target = np.full_like(logits, label_smoothing / classes)
    target[np.arange(n), labels] += 1 - label_smoothing
    # Where there is no target there is no term, even if log p is minus infinity.
    loss = -np.multiply(target, log_p, out=np.zeros_like(log_p), where=target > 0).sum() / n
    return float(loss), (np.exp(log_p) - target) / n
