"""Mutants of softmax and cross-entropy."""

from typing import Any

import numpy as np

from tinymnv1 import ops
from tinymnv1.gradcheck.mutants.catalogue import Functions, mutant
from tinymnv1.ops.window import Array


def _loss_with(dlogits_of: Any) -> Functions:
    """The right loss with another gradient: dlogits_of(right, logits, labels, label_smoothing)."""

    def softmax_cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0) -> Any:
        loss, right = ops.softmax_cross_entropy(logits, labels, label_smoothing)
        return loss, dlogits_of(right, logits, labels, label_smoothing)

    return {"softmax_cross_entropy": softmax_cross_entropy}


@mutant("softmax_cross_entropy", "not divided by N")
def loss_gradient_of_the_sum() -> Functions:
    """dlogits belongs to the sum of the losses; the loss is their mean."""
    return _loss_with(lambda right, logits, labels, e: right * len(logits))


@mutant("softmax_cross_entropy", "divided by N twice")
def loss_gradient_divided_twice() -> Functions:
    """dlogits is divided by the batch size twice."""
    return _loss_with(lambda right, logits, labels, e: right / len(logits))


@mutant("softmax_cross_entropy", "label smoothing ignored")
def loss_gradient_without_smoothing() -> Functions:
    """The loss smooths its target, dlogits does not."""
    return _loss_with(lambda right, logits, labels, e: ops.softmax_cross_entropy(logits, labels)[1])


@mutant("softmax_cross_entropy", "sign flipped")
def loss_gradient_negated() -> Functions:
    """dlogits is t - p: training would climb."""
    return _loss_with(lambda right, logits, labels, e: -right)


@mutant("softmax_cross_entropy", "smoothing shared among the others")
def loss_smoothing_among_the_others() -> Functions:
    """e is shared among the K - 1 other classes, in the loss and in dlogits alike."""

    def softmax_cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0) -> Any:
        classes = logits.shape[1]
        return ops.softmax_cross_entropy(logits, labels, label_smoothing * classes / (classes - 1))

    return {"softmax_cross_entropy": softmax_cross_entropy}


@mutant("softmax_cross_entropy", "overflow")
def loss_without_maximum() -> Functions:
    """exp(logits) without subtracting the largest: right for small logits, NaN for large ones."""

    def softmax_cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0) -> Any:
        n, classes = logits.shape
        with np.errstate(all="ignore"):
            exp = np.exp(logits)
            p = exp / exp.sum(axis=1, keepdims=True)
            target = np.full_like(logits, label_smoothing / classes)
            target[np.arange(n), labels] += 1 - label_smoothing
            return float(-(target * np.log(p)).sum() / n), (p - target) / n

    return {"softmax_cross_entropy": softmax_cross_entropy}


@mutant("softmax", "softmax over the wrong axis")
def softmax_over_the_batch() -> Functions:
    """The exponentials are summed over the batch instead of over the classes."""
    return {"softmax": lambda logits: np.ascontiguousarray(ops.softmax(np.ascontiguousarray(logits.T)).T)}
