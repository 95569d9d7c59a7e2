"""Shapes and dtypes that do not fit give a ConfigError that names the op and the shapes, not a broadcast gone wrong."""

import numpy as np
import pytest
from cases import NAMES, forward_and_backward, make_case

from tinymnv1 import kernels, ops
from tinymnv1.errors import ConfigError

X = np.zeros((2, 4, 4, 3), np.float32)


def zeros(*shape):
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize("module", [ops, kernels], ids=["ops", "kernels"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("conv2d_forward", (X, zeros(3, 3, 4, 8))),
        ("conv2d_forward", (X[0], zeros(3, 3, 3, 8))),
        ("depthwise_forward", (X, zeros(3, 3, 1))),  # would broadcast silently
        ("depthwise_forward", (X, zeros(3, 3, 3, 1))),
        ("depthwise_forward", (X[:0], zeros(3, 3, 3))),
        ("depthwise_forward", (X.astype(np.uint8), zeros(3, 3, 3))),
        ("conv2d_forward", (X, zeros(3, 3, 3, 0))),
        ("pointwise_forward", (X, zeros(4, 8))),
        ("pointwise_forward", (X, zeros(3, 0))),
        ("batchnorm_forward", (X, zeros(1), zeros(1))),  # would broadcast silently
        ("batchnorm_inference", (X, zeros(4), zeros(4), zeros(4), zeros(4))),
        ("batchnorm_inference", (X, zeros(3), zeros(3), zeros(1), zeros(3))),  # would broadcast silently
        ("batchnorm_inference", (X, zeros(3), zeros(3), zeros(3), zeros(4, 3))),
        ("avgpool_forward", (X, 5)),
        ("maxpool_forward", (X, 0)),
        ("global_avgpool_forward", (X[0],)),
        ("linear_forward", (zeros(2, 3), zeros(3, 4), zeros(1))),
        ("linear_forward", (zeros(0, 3), zeros(3, 4), zeros(4))),
        ("linear_forward", (zeros(2, 3), zeros(3, 0), zeros(0))),
        ("avgpool_forward", (X.astype(np.float16), 2)),
        ("dropout_forward", (X, 1.0, np.random.default_rng(0))),
        ("dropout_forward", (X.astype(np.float16), 0.5, np.random.default_rng(0))),
        ("dropout_forward", (np.arange(6), 0.5, np.random.default_rng(0))),  # 1 / (1 - p) would become 0
        ("softmax_cross_entropy", (np.array([[2, 1, 0]]), np.array([0]), 0.1)),  # the target would be rounded to 0
        ("softmax_cross_entropy", (zeros(2, 3).astype(np.float16), np.array([0, 1]))),
        ("softmax_cross_entropy", (zeros(2, 3), np.array([0, 3]))),
        ("softmax_cross_entropy", (zeros(2, 3), np.array([0, -1]))),
        ("softmax_cross_entropy", (zeros(2, 3), np.array([0.0, 1.0]))),
        ("softmax_cross_entropy", (zeros(2, 3), np.array([0]))),
        ("softmax_cross_entropy", (zeros(2, 3), np.array([0, 1]), 1.5)),
    ],
)
def test_what_does_not_fit_is_refused(module, name, arguments):
    with pytest.raises(ConfigError):
        getattr(module, name)(*arguments)


@pytest.mark.parametrize("module", [ops, kernels], ids=["ops", "kernels"])
@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_of_another_shape_is_refused(module, name):
    """NumPy would broadcast or reshape it without a word, and a kernel read beyond the end of a smaller one."""
    inputs, others = make_case(name, 3, 4, 5, 7, np.random.default_rng(6), np.float32)
    forward, backward = forward_and_backward(module, name)
    y, cache, *_ = forward(*inputs, *others)
    for dy in (y[:-1], y[:1], y[..., :1], np.concatenate([y, y]), y.T, y.reshape(-1)):
        with pytest.raises(ConfigError, match=f"{name}: dy must be"):
            backward(dy, cache)


@pytest.mark.parametrize("name", ["conv2d", "depthwise"])
def test_the_naive_loops_refuse_a_gradient_of_another_shape(name):
    """A larger one would be cut off, a smaller one read beyond its end."""
    forward, backward = (getattr(ops, f"{name}_{way}_naive") for way in ("forward", "backward"))
    w = zeros(3, 3, 3, 2) if name == "conv2d" else zeros(3, 3, 3)
    y, cache = forward(X, w, 2)
    for dy in (np.concatenate([y, y], axis=1), y[:, :1]):
        with pytest.raises(ConfigError, match=f"{name}: dy must be"):
            backward(dy, cache)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_images_that_may_be_scaled_already_are_not_normalised(dtype):
    with pytest.raises(ConfigError, match="normalise: images must be uint8"):
        ops.normalise(X.astype(dtype), (0, 0, 0), (1, 1, 1))


def test_float64_is_refused_by_the_kernels():
    with pytest.raises(ConfigError, match="float32"):
        kernels.depthwise_forward(np.zeros((1, 2, 2, 1)), np.zeros((3, 3, 1)))
