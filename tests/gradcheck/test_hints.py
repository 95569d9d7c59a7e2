"""Hints on mistakes that are no mutants, written in other ways: the diagnosis looks at results, not at code."""

import re
from pathlib import Path

import numpy as np
import pytest
from gradcheck.implementations import batchnorm_staged, depthwise_im2col, depthwise_loops

from tinymnv1 import ops
from tinymnv1.gradcheck import diagnosis
from tinymnv1.gradcheck.diagnosis import ADVICE, picture
from tinymnv1.gradcheck.findings import FAILED
from tinymnv1.gradcheck.grade import grade_functions
from tinymnv1.gradcheck.report import text
from tinymnv1.gradcheck.spec import select


def graded(op, functions):
    (spec,) = (spec for spec in select(op) if spec.name == op)
    results = grade_functions(spec, {**vars(ops), **functions})
    return {result.function: result for result in results}


def changed(functions, name, change):
    """`functions` with the results of one of them put through `change`."""
    right = functions[name]
    return {**functions, name: lambda *args, **options: change(right(*args, **options))}


@pytest.mark.parametrize(
    ("op", "function", "functions", "cause"),
    [
        (
            "depthwise",
            "depthwise_backward",
            changed(depthwise_loops(), "depthwise_backward", lambda r: (r[0], r[1] / 2)),
            "divided by the batch",
        ),
        (
            "depthwise",
            "depthwise_backward",
            changed(depthwise_im2col(), "depthwise_backward", lambda r: (-r[0], r[1])),
            "sign flipped",
        ),
        (
            "depthwise",
            "depthwise_backward",
            changed(depthwise_im2col(), "depthwise_backward", lambda r: (r[0] * 3, r[1])),
            "constant factor",
        ),
        (
            "depthwise",
            "depthwise_backward",
            changed(depthwise_im2col(), "depthwise_backward", lambda r: (0 * r[0], r[1])),
            "all zero",
        ),
        (
            "batchnorm",
            "batchnorm_backward",
            changed(batchnorm_staged(), "batchnorm_backward", lambda r: (r[0], r[2], r[1])),
            "gamma and beta swapped",
        ),
        (
            "linear",
            "linear_backward",
            {"linear_backward": lambda dy, cache: (dy @ cache[1].T, (dy.T @ cache[0]), dy.sum(0))},
            "transposed",
        ),
        (
            "pointwise",
            "pointwise_forward",
            changed(vars(ops), "pointwise_forward", lambda r: (r[0].astype(np.float64), r[1])),
            "float64 instead of float32",
        ),
        (
            "relu6",
            "relu6_backward",
            {"relu6_backward": lambda dy, cache: cache.astype(dy.dtype)},
            "upstream gradient forgotten",
        ),
    ],
)
def test_the_cause_is_named(op, function, functions, cause):
    result = graded(op, functions)[function]
    assert result.status == FAILED
    assert result.hint is not None
    assert result.hint.cause == cause, text([result])


def test_a_gradient_that_fits_a_wrong_forward_is_told_so():
    """A tanh in the place of ReLU: the backward is right for it, and not what is wrong."""

    def forward(x):
        return np.tanh(x), x

    results = graded("relu", {"relu_forward": forward, "relu_backward": lambda dy, x: dy * (1 - np.tanh(x) ** 2)})
    assert results["relu_forward"].status == FAILED
    assert results["relu_backward"].hint.cause == "follows the wrong forward"


def test_right_results_get_no_hint():
    assert all(result.hint is None for result in graded("depthwise", {}).values())


def test_the_border_is_seen():
    """An error that is only along the border is put down to the padding."""

    def break_border(result):
        dx = result[0].copy()
        dx[:, 0] += 1
        dx[:, :, -1] -= 1
        return dx, result[1]

    result = graded("depthwise", changed(vars(ops), "depthwise_backward", break_border))["depthwise_backward"]
    assert result.hint.cause == "padding"


def test_a_channel_is_named():
    """An error in some of the channels alone, in every image and in the weights' gradient too."""

    def break_channels(result):
        dx, dw = (a.copy() for a in result)
        dx[..., 1] *= np.linspace(1.5, 3, dx[..., 1].size).reshape(dx[..., 1].shape)
        dw[..., 1] += 1
        return dx, dw

    result = graded("depthwise", changed(vars(ops), "depthwise_backward", break_channels))["depthwise_backward"]
    assert result.hint.cause == "channel"
    assert "channels [1] of" in result.hint.text


def test_pixels_a_stride_apart_are_put_down_to_the_stride():
    """One pixel in four of y is wrong, a regular grid of them; the others are right."""

    def break_grid(result):
        y = result[0].copy()
        y[:, ::2, ::2] += np.random.default_rng(0).uniform(1, 2, y[:, ::2, ::2].shape).astype(y.dtype)
        return y, *result[1:]

    result = graded("depthwise", changed(vars(ops), "depthwise_forward", break_grid))["depthwise_forward"]
    assert result.hint.cause == "stride"


def test_picture_shows_the_wrong_elements_of_the_worst_slice():
    error = np.zeros((2, 3, 4, 2))
    error[1, 0, 3, 1], error[1, 2, 1, 1], error[0, 1, 1, 0] = 2, 1, 1
    rows = picture(error, error > 0.5).splitlines()
    assert rows[0].startswith("slice [1, :, :, 1]")
    assert [row.split()[1:] for row in rows[1:]] == [[".", ".", ".", "X"], ["."] * 4, [".", "x", ".", "."]]


def test_every_advice_can_be_given():
    """A cause in the table that no code produces would be dead text."""
    folder = Path(diagnosis.__file__).parent
    code = "".join(p.read_text(encoding="utf-8") for p in folder.parent.rglob("*.py") if p.name != "causes.py")
    code = re.sub(r"@mutant\([^)]*\)", "", code)  # a mutant names its cause, but does not produce the hint
    unused = [cause for cause in ADVICE if f'"{cause}"' not in code]
    assert not unused
