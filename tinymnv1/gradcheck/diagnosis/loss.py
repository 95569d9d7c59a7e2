"""What softmax and cross-entropy give under each common mistake."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinymnv1.gradcheck.diagnosis.causes import Candidate
from tinymnv1.ops.window import Array


def _softmax(logits: Array, axis: int) -> Array:
    exp = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return exp / exp.sum(axis=axis, keepdims=True)


def softmax_candidates(inputs: dict[str, Any], options: dict[str, Any], dy: Array | None) -> Iterator[Candidate]:
    """Wrong probabilities."""
    logits = inputs["logits"]
    yield "p", "softmax over the wrong axis", _softmax(logits, 0)
    whole = np.exp(logits - logits.max())
    yield "p", "softmax over the wrong axis", whole / whole.sum()


def candidates(inputs: dict[str, Any], options: dict[str, Any], dy: Array | None) -> Iterator[Candidate]:
    """Wrong loss and dlogits."""
    logits, labels, e = inputs["logits"], inputs["labels"], options.get("label_smoothing", 0.0)
    n, classes = logits.shape
    hot = np.eye(classes)[labels]
    target = (1 - e) * hot + e / classes
    p = _softmax(logits, 1)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = -(target * log_p).sum() / n
    yield "loss", "not divided by N", np.asarray(loss * n)
    yield "loss", "divided by N twice", np.asarray(loss / n)
    yield "loss", "mean instead of sum", np.asarray(loss / classes)
    yield "loss", "label smoothing ignored", np.asarray(-(hot * log_p).sum() / n)
    yield "loss", "logarithm of base 2", np.asarray(loss / np.log(2))
    yield "dlogits", "not divided by N", p - target
    yield "dlogits", "divided by N twice", (p - target) / n**2
    yield "dlogits", "divided by N twice", (p - target) / (n * classes)
    yield "dlogits", "label smoothing ignored", (p - hot) / n
    yield "dlogits", "target missing", p / n
    yield "dlogits", "softmax over the wrong axis", (_softmax(logits, 0) - target) / n
    if e:
        others = (1 - e) * hot + (1 - hot) * e / (classes - 1)
        yield "dlogits", "smoothing shared among the others", (p - others) / n
        yield "loss", "smoothing shared among the others", np.asarray(-(others * log_p).sum() / n)
        yield "dlogits", "label smoothing ignored", (p - (1 - e) * hot) / n
