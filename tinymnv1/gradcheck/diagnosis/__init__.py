"""From a wrong array to its cause: it is compared with what each common mistake would have given.

Not the code is looked at but its result, so it does not matter how the mistake was written. Each op has a list of
candidates (convolution.py, normalisation.py, ...): wrong results, computed from the case's inputs, each with its cause.
Where none fits, the pattern of the wrong elements is read (structure.py).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tinymnv1.gradcheck.diagnosis import convolution, elementwise, loss, matrix, normalisation, pooling
from tinymnv1.gradcheck.diagnosis.causes import ADVICE, Candidate
from tinymnv1.gradcheck.diagnosis.structure import pattern_cause, picture, shape_cause
from tinymnv1.gradcheck.expected import in_float64
from tinymnv1.gradcheck.findings import Finding, Hint
from tinymnv1.gradcheck.numeric import relative_error
from tinymnv1.ops.window import Array

__all__ = ["ADVICE", "candidates", "diagnose", "hint", "picture"]

EXAMINED = 3
"""How many wrong arrays of one name are compared with the candidates: enough to tell alike causes apart."""

MATCH = 1e-5
"""A result within this relative distance of a candidate is taken for it (1e-3 in float32)."""

_CANDIDATES: dict[str, Callable[..., Iterator[Candidate]]] = {
    "conv2d": convolution.candidates,
    "depthwise": convolution.candidates,
    "pointwise": matrix.candidates,
    "linear": matrix.candidates,
    "batchnorm": normalisation.candidates,
    "batchnorm_inference": normalisation.inference_candidates,
    "relu": elementwise.relu_candidates,
    "relu6": elementwise.relu6_candidates,
    "dropout": elementwise.dropout_candidates,
    "avgpool": pooling.avgpool_candidates,
    "maxpool": pooling.maxpool_candidates,
    "global_avgpool": pooling.global_avgpool_candidates,
    "softmax": loss.softmax_candidates,
    "softmax_cross_entropy": loss.candidates,
}


def hint(cause: str, argument: str, function: str, detail: str = "") -> Hint:
    """The hint for a cause. argument, function: what is wrong, put into the advice's words."""
    return Hint(cause, ADVICE[cause].format(a=argument, f=function) + detail)


def candidates(op: str, finding: Finding, dy: Array | None, y: Array | None) -> list[tuple[str, Array]]:
    """(cause, array) of every known mistake in `finding.argument` that could be computed for this case.

    dy: the upstream gradient; without one (a case that leaves the backward out), zeros of y's shape will do.
    y: what the learner's forward returned (dropout's mask is in it).
    """
    inputs = in_float64(finding.case)
    extra: tuple[Any, ...] = ()
    if op == "dropout":
        if y is None or y.shape != inputs["x"].shape:
            return []
        extra = (y,)
    if dy is None and finding.want is not None:
        dy = np.zeros(finding.want.shape)
    if op == "batchnorm" and dy is not None and dy.shape != inputs["x"].shape:
        dy = np.zeros(inputs["x"].shape)
    upstream = None if dy is None else dy.astype(np.float64)
    with np.errstate(all="ignore"):
        found = _CANDIDATES[op](inputs, finding.case.options, upstream, *extra)
        return [(cause, array) for argument, cause, array in found if argument == finding.argument]


def diagnose(
    op: str, function: str, failures: Sequence[Finding], upstream: dict[int, Array | None], y: dict[int, Array | None]
) -> Hint | None:
    """The likely cause of a function's failures.

    failures: its wrong findings.  upstream, y: by id(case), the dy of that case and the learner's own y.
    Returns the cause that explains most of the wrong arrays (each has one vote a cause), or None.
    """
    votes: Counter[tuple[str, str]] = Counter()  # (cause, argument)
    fallback: list[Hint] = []
    seen: Counter[str] = Counter()
    for finding in failures:
        if finding.kind == "dtype" and finding.got is not None and finding.got.dtype == np.float64:
            fallback.append(hint("float64 instead of float32", finding.argument, function))
        if finding.got is None or finding.want is None:
            continue
        if finding.kind == "shape":
            cause = shape_cause(op, finding.argument, finding.got.shape, finding.want.shape)
            if cause == "padding off by one" and finding.case.options.get("padding") == "tf":
                cause = "padding mode ignored"
            votes[cause, finding.argument] += 1
        elif finding.kind == "value" and seen[finding.argument] < EXAMINED:
            seen[finding.argument] += 1
            got = finding.got.astype(np.float64)
            dy = upstream.get(id(finding.case))
            causes = _matches(op, finding, got, dy, y.get(id(finding.case)))
            if op == "dropout" and finding.argument == "dx" and dy is not None and not causes:
                causes = ["fresh mask"] * elementwise.has_fresh_mask(got, dy, finding.case.inputs["p"])
            votes.update((cause, finding.argument) for cause in causes)
            if not causes and (found := _pattern(op, finding, got)):
                fallback.append(hint(found[0], finding.argument, function, found[1]))
    if votes:
        by_cause = Counter[str]()
        for (cause, _), count in votes.items():
            by_cause[cause] += count
        best = by_cause.most_common(1)[0][0]
        arguments = [argument for cause, argument in votes if cause == best]
        first, *rest = dict.fromkeys(arguments)
        return hint(best, first, function, f" The same holds for {' and '.join(rest)}." if rest else "")
    return fallback[0] if fallback else None


def _matches(op: str, finding: Finding, got: Array, dy: Array | None, y: Array | None) -> list[str]:
    limit = MATCH if finding.case.tolerance < 1e-5 else 1e-3
    causes = []
    for cause, array in candidates(op, finding, dy, y):
        if np.shape(array) != got.shape or not np.isfinite(array).all():
            continue
        distance = float(relative_error(got, array).max(initial=0))
        # Near a small difference, such as a misplaced eps of 1e-5, the right answer lies close by: the candidate has to
        # fit much better than that does.
        if distance <= min(limit, finding.error / 20):
            causes.append(cause)
    return list(dict.fromkeys(causes))


def _pattern(op: str, finding: Finding, got: Array) -> tuple[str, str] | None:
    assert finding.want is not None
    if finding.case.lures and not (finding.case.lures == "overflow" and np.isfinite(got).all()):
        return finding.case.lures, ""
    wrong = relative_error(got, finding.want) > finding.case.tolerance
    return pattern_cause(op, finding.argument, got, finding.want, wrong)
