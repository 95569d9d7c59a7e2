"""Shapes and dtypes that do not fit give a ConfigError that names the op and the shapes, not a broadcast gone wrong."""

import numpy as np
import pytest

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
        ("pointwise_forward", (X, zeros(4, 8))),
        ("batchnorm_forward", (X, zeros(1), zeros(1))),  # would broadcast silently
        ("batchnorm_inference", (X, zeros(4), zeros(4), zeros(4), zeros(4))),
        ("avgpool_forward", (X, 5)),
        ("maxpool_forward", (X, 0)),
        ("global_avgpool_forward", (X[0],)),
        ("linear_forward", (zeros(2, 3), zeros(3, 4), zeros(1))),
        ("dropout_forward", (X, 1.0, np.random.default_rng(0))),
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


def test_float64_is_refused_by_the_kernels():
    with pytest.raises(ConfigError, match="float32"):
        kernels.depthwise_forward(np.zeros((1, 2, 2, 1)), np.zeros((3, 3, 1)))
