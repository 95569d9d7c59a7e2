"""What batch norm promises beyond its gradient: stable statistics, and dx free of shift and stretch."""

import numpy as np
import pytest

from tinymnv1 import kernels, ops


@pytest.mark.parametrize("module", [ops, kernels], ids=["ops", "kernels"])
def test_the_variance_survives_a_large_mean(module):
    """Mean 3,000, spread 1, float32: E[x^2] - E[x]^2 gives a variance anywhere between -1 and 2 here."""
    rng = np.random.default_rng(0)
    x = (3000 + rng.normal(size=(16, 16, 16, 4))).astype(np.float32)
    exact = x.astype(np.float64)
    _, _, mean, var = module.batchnorm_forward(x, np.ones(4, np.float32), np.zeros(4, np.float32))
    np.testing.assert_allclose(mean, exact.mean(axis=(0, 1, 2)), rtol=5e-6)
    np.testing.assert_allclose(var, exact.var(axis=(0, 1, 2)), rtol=1e-4)


@pytest.mark.parametrize("module", [ops, kernels], ids=["ops", "kernels"])
def test_the_mean_of_many_values_keeps_its_digits(module):
    """131,072 values around 1,000: a running sum in float32 misses the mean by thousands of its last digit."""
    x = (1000 + np.random.default_rng(0).normal(size=(128, 32, 32, 2))).astype(np.float32)
    _, _, mean, _ = module.batchnorm_forward(x, np.ones(2, np.float32), np.zeros(2, np.float32))
    np.testing.assert_allclose(mean, x.mean(axis=(0, 1, 2), dtype=np.float64), atol=1e-4, rtol=0)


@pytest.mark.parametrize("module", [ops, kernels], ids=["ops", "kernels"])
def test_the_gradients_of_many_values_keep_their_digits(module):
    """As above, for sums of dy: 800,000 numbers around 0.5."""
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(64, 112, 112, 2)), 0.5 + rng.normal(size=(64, 112, 112, 2))
    gamma = np.array([0.5, 2])
    want = ops.batchnorm_backward(dy, ops.batchnorm_forward(x, gamma, gamma)[1])
    x, dy, gamma = (a.astype(np.float32) for a in (x, dy, gamma))
    got = module.batchnorm_backward(dy, module.batchnorm_forward(x, gamma, gamma)[1])
    for mine, right in zip(got[1:], want[1:], strict=True):
        np.testing.assert_allclose(mine, right, rtol=0, atol=2e-7 * np.abs(dy).sum() / 2)
    np.testing.assert_allclose(got[0], want[0], rtol=0, atol=1e-5)


def test_an_eps_of_numpy_does_not_widen_the_numbers():
    """A np.float64 is no plain number to NumPy: float32 arrays become float64 beside it."""
    x, channel = np.ones((2, 3, 3, 4), np.float32), np.ones(4, np.float32)
    y, *_ = ops.batchnorm_forward(x, channel, channel, np.float64(1e-3))
    assert y.dtype == np.float32
    assert ops.batchnorm_inference(x, channel, channel, channel, channel, np.float64(1e-3)).dtype == np.float32


def test_dx_sums_to_zero_and_is_orthogonal_to_xhat():
    """Adding a constant to a channel changes nothing, nor does (but for eps) stretching it: so dx has neither part."""
    rng = np.random.default_rng(1)
    x, gamma = rng.normal(size=(3, 5, 5, 2)), rng.normal(size=2)
    y, cache, _, _ = ops.batchnorm_forward(x, gamma, np.zeros(2), eps=1e-12)
    dx, _, _ = ops.batchnorm_backward(rng.normal(size=y.shape), cache)
    np.testing.assert_allclose(dx.sum(axis=(0, 1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose((dx * y).sum(axis=(0, 1, 2)), 0, atol=1e-9)


def test_a_constant_channel_becomes_beta():
    x = np.full((2, 3, 3, 1), 4.0)
    y, _, _, var = ops.batchnorm_forward(x, np.array([2.0]), np.array([0.5]))
    np.testing.assert_array_equal(y, 0.5)
    np.testing.assert_array_equal(var, 0)
