"""Every backward pass against central differences: float64, random upstream gradient, every element, 1e-7 relative.

If one of these fails, the derivation in that op's docstring and its code no longer agree.
"""

import numpy as np
import pytest
from numeric import off_kinks, relative_error

from tinymnv1 import ops
from tinymnv1.gradcheck import numeric_gradient

TOLERANCE = 1e-7

# N, H, W, K, stride: odd and even sizes, 1x1 images, even kernels, kernels larger than the image, stride 3.
WINDOWS = [
    (2, 5, 5, 3, 1),
    (2, 6, 5, 3, 2),
    (1, 7, 4, 3, 2),
    (2, 1, 1, 3, 1),
    (1, 1, 1, 3, 2),
    (1, 2, 3, 5, 1),
    (1, 6, 7, 5, 2),
    (1, 7, 8, 3, 3),
    (2, 4, 5, 2, 1),
    (1, 5, 6, 2, 2),
    (2, 4, 4, 1, 1),
    (1, 5, 4, 1, 2),
]


# The loops are slow: for them the smaller cases, which walk the same code.
NAIVE_WINDOWS = [case for case in WINDOWS if case[3] < 5 and case[0] * case[1] * case[2] <= 30]
VARIANTS = [("", *case) for case in WINDOWS] + [("_naive", *case) for case in NAIVE_WINDOWS]


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def check(forward, backward, inputs, rng, tolerance=TOLERANCE):
    """forward(*inputs) -> y, cache, ...; backward(dy, cache) -> one gradient per input."""
    y, cache, *_ = forward(*inputs)
    dy = rng.normal(size=y.shape)
    gradients = backward(dy, cache)
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    assert len(gradients) == len(inputs)
    for position, analytic in enumerate(gradients):

        def f(value, position=position):
            return forward(*inputs[:position], value, *inputs[position + 1 :])[0]

        assert relative_error(analytic, numeric_gradient(f, inputs[position], dy)) <= tolerance, f"argument {position}"


@pytest.mark.parametrize("padding", ["symmetric", "tf"])
@pytest.mark.parametrize(("naive", "n", "h", "w", "k", "stride"), VARIANTS)
def test_depthwise(naive, n, h, w, k, stride, padding, rng):
    forward, backward = getattr(ops, f"depthwise_forward{naive}"), getattr(ops, f"depthwise_backward{naive}")
    inputs = [rng.normal(size=(n, h, w, 2)), rng.normal(size=(k, k, 2))]
    check(lambda x, weight: forward(x, weight, stride, padding), backward, inputs, rng)


@pytest.mark.parametrize("padding", ["symmetric", "tf"])
@pytest.mark.parametrize(("naive", "n", "h", "w", "k", "stride"), VARIANTS)
def test_conv2d(naive, n, h, w, k, stride, padding, rng):
    forward, backward = getattr(ops, f"conv2d_forward{naive}"), getattr(ops, f"conv2d_backward{naive}")
    inputs = [rng.normal(size=(n, h, w, 2)), rng.normal(size=(k, k, 2, 3))]
    check(lambda x, weight: forward(x, weight, stride, padding), backward, inputs, rng)


def test_rectangular_kernels(rng):
    inputs = [rng.normal(size=(2, 5, 6, 2)), rng.normal(size=(3, 1, 2))]
    check(lambda x, w: ops.depthwise_forward(x, w, 2, "tf"), ops.depthwise_backward, inputs, rng)
    inputs = [rng.normal(size=(2, 5, 6, 2)), rng.normal(size=(1, 3, 2, 2))]
    check(lambda x, w: ops.conv2d_forward(x, w, 1), ops.conv2d_backward, inputs, rng)


def test_pointwise(rng):
    inputs = [rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(5, 3))]
    check(ops.pointwise_forward, ops.pointwise_backward, inputs, rng)


@pytest.mark.parametrize("shape", [(2, 3, 4, 3), (4, 1, 1, 2), (1, 5, 1, 2)])
def test_batchnorm(shape, rng):
    # A mean and a spread far from 0 and 1: with standard normal inputs several wrong formulas are nearly right.
    inputs = [3 + 2 * rng.normal(size=shape), rng.normal(size=shape[3]), rng.normal(size=shape[3])]
    check(ops.batchnorm_forward, ops.batchnorm_backward, inputs, rng)


def test_batchnorm_with_a_large_eps(rng):
    """eps is inside the square root and in the gradient: a backward pass that forgets it only shows when it matters."""
    inputs = [rng.normal(size=(2, 3, 3, 2)), rng.normal(size=2), rng.normal(size=2)]
    check(lambda x, gamma, beta: ops.batchnorm_forward(x, gamma, beta, 0.5), ops.batchnorm_backward, inputs, rng)


@pytest.mark.parametrize(("name", "kinks"), [("relu6", (0.0, 6.0)), ("relu", (0.0,))])
def test_activation(name, kinks, rng):
    x = off_kinks(rng, (3, 4, 4, 3), kinks)
    assert (x < 0).any()
    assert (x > 6).any()
    check(getattr(ops, f"{name}_forward"), getattr(ops, f"{name}_backward"), [x], rng)


@pytest.mark.parametrize(("size", "stride"), [(2, None), (3, 2), (2, 1), (3, 1), (1, 2), (2, 3)])
@pytest.mark.parametrize("name", ["avgpool", "maxpool"])
def test_pooling(name, size, stride, rng):
    # A permutation of 0, 1, 2, ...: no two values are close, so no step of the numeric gradient changes a winner.
    x = rng.permutation(2 * 6 * 5 * 2).reshape(2, 6, 5, 2).astype(np.float64)
    forward = getattr(ops, f"{name}_forward")
    check(lambda x: forward(x, size, stride), getattr(ops, f"{name}_backward"), [x], rng)


def test_global_avgpool(rng):
    check(ops.global_avgpool_forward, ops.global_avgpool_backward, [rng.normal(size=(2, 3, 4, 3))], rng)


def test_linear(rng):
    inputs = [rng.normal(size=(4, 3)), rng.normal(size=(3, 5)), rng.normal(size=5)]
    check(ops.linear_forward, ops.linear_backward, inputs, rng)


def test_dropout(rng):
    def forward(x):
        return ops.dropout_forward(x, 0.4, np.random.default_rng(3))  # the same mask at every call

    check(forward, ops.dropout_backward, [rng.normal(size=(6, 7))], rng)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
def test_softmax_cross_entropy(label_smoothing, rng):
    logits, labels = 3 * rng.normal(size=(5, 4)), np.array([0, 3, 1, 1, 2])
    _, dlogits = ops.softmax_cross_entropy(logits, labels, label_smoothing)

    def loss(z):
        return np.array(ops.softmax_cross_entropy(z, labels, label_smoothing)[0])

    assert relative_error(dlogits, numeric_gradient(loss, logits, np.array(1.0))) <= TOLERANCE


def test_a_probability_of_zero_costs_nothing_where_it_is_not_the_label():
    """log p is minus infinity there, and its share of the target is zero: 0, not 0 times infinity."""
    loss, dlogits = ops.softmax_cross_entropy(np.array([[0.0, -np.inf], [2.0, 2.0]]), np.array([0, 1]))
    assert loss == np.log(2) / 2
    np.testing.assert_array_equal(dlogits, [[0, 0], [0.25, -0.25]])
