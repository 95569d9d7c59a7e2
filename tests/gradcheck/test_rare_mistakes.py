"""Mistakes that show in one kind of call only: each must fail, and the hint must not name one that was not made."""

import numpy as np
import pytest
from gradcheck.implementations import padded

from tinymnv1 import ops
from tinymnv1.gradcheck.exercise import check_op
from tinymnv1.gradcheck.findings import FAILED, PASSED
from tinymnv1.gradcheck.grade import grade_functions
from tinymnv1.gradcheck.report import text
from tinymnv1.gradcheck.spec import select


def graded(op, functions, seed=0):
    (spec,) = (spec for spec in select(op) if spec.name == op)
    return {result.function: result for result in grade_functions(spec, {**vars(ops), **functions}, seed)}


def convolve(xp, w, stride, out_h, out_w):
    y = np.zeros((len(xp), out_h, out_w, w.shape[3]), xp.dtype)
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            y += xp[:, i : i + stride * out_h : stride, j : j + stride * out_w : stride][:, :out_h, :out_w] @ w[i, j]
    return y


def symmetric(zeros):
    """conv2d with `zeros(w)` rows and columns of zeros on each side where the padding is symmetric."""

    def forward(x, w, stride=1, padding="symmetric"):
        if padding == "tf":
            xp, out_h, out_w, *_ = padded(x, w, stride, padding)
        else:
            p, q = zeros(w)
            xp = np.pad(x, ((0, 0), (p, p), (q, q), (0, 0)))
            out_h, out_w = ((n - k) // stride + 1 for n, k in zip(xp.shape[1:3], w.shape[:2], strict=True))
        return convolve(xp, w, stride, out_h, out_w), (x, w, stride, padding)

    return {"conv2d_forward": forward}


def tf_without_max(x, w, stride=1, padding="symmetric"):
    if padding == "symmetric":
        return ops.conv2d_forward(x, w, stride, padding)
    out = [-(-n // stride) for n in x.shape[1:3]]
    total = [(o - 1) * stride + k - n for o, k, n in zip(out, w.shape[:2], x.shape[1:3], strict=True)]
    xp = np.pad(x, ((0, 0), *((t // 2, t - t // 2) for t in total), (0, 0)))
    return convolve(xp, w, stride, *out), (x, w, stride, padding)


def remembered():
    """ReLU6 whose backward looks at what forward saw last, wherever that was."""
    last = {}

    def forward(x):
        last["x"] = x.copy()
        return np.clip(x, 0, 6), None

    return {"relu6_forward": forward, "relu6_backward": lambda dy, cache: dy * ((last["x"] > 0) & (last["x"] < 6))}


def into_one_array(function):
    """What the function computes, in the same array at each call with such a shape."""
    kept = {}

    def call(*args):
        value = function(*args)
        first, *rest = value if isinstance(value, tuple) else (value,)
        out = kept.setdefault((first.shape, first.dtype), np.empty_like(first))
        out[...] = first
        return (out, *rest) if rest else out

    return call


def softmax_of_the_batch(logits):
    e = np.exp(logits - logits.max())
    return e / e.sum(axis=1, keepdims=True)


def loss_with(p_of, log):
    def loss(logits, labels, label_smoothing=0.0):
        p, n = p_of(logits), len(labels)
        right, dlogits = ops.softmax_cross_entropy(logits, labels, label_smoothing)
        return (right if label_smoothing else float(-log(p[np.arange(n), labels]).mean())), dlogits

    return {"softmax_cross_entropy": loss}


def dropout_of_rows(x, p, rng):
    scale = np.broadcast_to((rng.random(x.shape[1:]) >= p) / (1 - p), x.shape).astype(x.dtype)
    return x * scale, scale


def maxpool_to_all_of_a_tie(dy, cache):
    x, y, size, stride = cache
    dx = np.zeros_like(x)
    for i in range(size):
        for j in range(size):
            at = np.s_[:, i : i + stride * dy.shape[1] : stride, j : j + stride * dy.shape[2] : stride]
            part = dx[at][:, : dy.shape[1], : dy.shape[2]]
            part += dy * (x[at][:, : dy.shape[1], : dy.shape[2]] == y)
    return dx


def maxpool_with_its_input(x, size, stride=None):
    y, _ = ops.maxpool_forward(x, size, stride)
    return y, (x.copy(), y.copy(), size, stride or size)


MISTAKES = {
    "state in a global": ("relu6", remembered()),
    "one array for every y": ("relu6", {"relu6_forward": into_one_array(ops.relu6_forward)}),
    "one array for every dx": ("relu6", {"relu6_backward": into_one_array(ops.relu6_backward)}),
    "K // 2 zeros": ("conv2d", symmetric(lambda w: (w.shape[0] // 2, w.shape[1] // 2))),
    "the height's zeros at the sides": ("conv2d", symmetric(lambda w: ((w.shape[0] - 1) // 2,) * 2)),
    "SAME with fewer than no zeros": ("conv2d", {"conv2d_forward": tf_without_max}),
    "another default padding": (
        "depthwise",
        {"depthwise_forward": lambda x, w, stride=1, padding="tf": ops.depthwise_forward(x, w, stride, padding)},
    ),
    "one image loses its axis": (
        "global_avgpool",
        {"global_avgpool_forward": lambda x: (x.mean(axis=(1, 2), keepdims=True).squeeze(), x.shape)},
    ),
    "the batch's maximum": ("softmax", {"softmax": softmax_of_the_batch}),
    "the batch's maximum in the loss": ("softmax_cross_entropy", loss_with(softmax_of_the_batch, np.log)),
    "log(p + 1e-12)": ("softmax_cross_entropy", loss_with(ops.softmax, lambda p: np.log(p + 1e-12))),
    "one mask for all rows": ("dropout", {"dropout_forward": dropout_of_rows}),
    "ties all win": (
        "maxpool",
        {"maxpool_forward": maxpool_with_its_input, "maxpool_backward": maxpool_to_all_of_a_tie},
    ),
}


@pytest.mark.parametrize("seed", range(4))  # by its share of zeros alone a mask for all rows fails with few seeds
@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_it_fails(name, seed):
    op, functions = MISTAKES[name]
    results = graded(op, functions, seed)
    assert FAILED in {r.status for r in results.values()}, text(list(results.values()))


def test_what_the_mistakes_are_made_of_is_right():
    """Without its mistake each of them passes: it is the mistake that fails."""
    right = symmetric(lambda w: tuple((k - 1) // 2 for k in w.shape[:2]))
    for op, functions in (("conv2d", right), ("softmax_cross_entropy", loss_with(ops.softmax, np.log))):
        results = graded(op, functions)
        assert {r.status for r in results.values()} == {PASSED}, text(list(results.values()))


def keepdims(result):
    y, cache, mean, var = result
    return y, cache, mean.reshape(1, 1, 1, -1), var


def by_hand(x, size, stride=None):
    stride = stride or size
    y = np.zeros((len(x), x.shape[1] // stride, x.shape[2] // stride, x.shape[3]), x.dtype)
    y[:, : (x.shape[1] - size) // stride + 1, : (x.shape[2] - size) // stride + 1] = ops.avgpool_forward(
        x, size, stride
    )[0]
    return y, (x.shape, size, stride)


@pytest.mark.parametrize(
    ("op", "functions", "cause"),
    [
        ("batchnorm", {"batchnorm_forward": lambda *a, **o: keepdims(ops.batchnorm_forward(*a, **o))}, "wrong shape"),
        (
            "linear",
            {"linear_backward": lambda dy, c: (dy @ c[1].T, c[0].T @ dy, dy.sum(axis=0, keepdims=True))},
            "wrong shape",
        ),
        ("avgpool", {"avgpool_forward": by_hand}, "wrong shape"),
        (
            "relu",
            {"relu_forward": lambda x: (np.maximum(x, 0).astype(np.float32), x > 0)},
            None,  # it is not float64 where float32 was asked for, but the reverse
        ),
        ("softmax", {"softmax": lambda z: np.exp(z - z.max(axis=1, keepdims=True))}, None),
        ("softmax_cross_entropy", loss_with(ops.softmax, lambda p: p), None),
    ],
    ids=["mean kept its axes", "db kept its axis", "pooling has no padding", "float32", "no overflow", "no factor"],
)
def test_the_hint_names_no_mistake_that_was_not_made(op, functions, cause):
    (failed,) = (r for r in graded(op, functions).values() if any(f.kind != "unreached" for f in r.failures))
    assert (failed.hint.cause if failed.hint else None) == cause, text([failed])


def test_the_stop_button_of_a_notebook_stops():
    """In a process of its own a learner's KeyboardInterrupt is an exception like any other; here it is the user's."""

    def relu6_forward(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_op(relu6_forward)
