"""Every Numba kernel against its op in float64: any batch, size, channel count and stride, tails included.

These tests also run with NUMBA_DISABLE_JIT=1, where the same source is plain Python; there they take smaller arrays.
"""

import os
import subprocess
import sys

import numba
import numpy as np
import pytest
from cases import NAMES, forward_and_backward, make_case
from hypothesis import given, settings
from hypothesis import strategies as st
from numeric import relative_error

from tinymnv1 import kernels, ops
from tinymnv1.errors import ConfigError
from tinymnv1.kernels import compile
from tinymnv1.kernels.simd import LANES

JIT = not numba.config.DISABLE_JIT
TOLERANCE = 2e-6  # float32 sums of a few hundred numbers, against float64
EXAMPLES = 40 if JIT else 4
CHANNELS = st.integers(1, 40) if JIT else st.integers(1, 5)
SIDE = st.integers(1, 9) if JIT else st.integers(1, 4)


@pytest.mark.parametrize(("channels", "width"), [(1, 4), (LANES, 1), (LANES + 1, 5)])
@np.errstate(invalid="ignore")
def test_infinity_stays_in_the_windows_that_see_it(channels, width):
    """Columns outside the image are nothing, and not zero times whatever lies elsewhere: that would be NaN."""
    x = np.zeros((1, 1, width, channels), np.float32)
    x[0, 0, 0] = np.inf
    w = np.ones((3, 3, channels), np.float32)
    y, _ = kernels.depthwise_forward(x, w)
    np.testing.assert_array_equal(y[0, 0, 2:], 0)
    x[0, 0, 0] = 0
    dy = np.zeros((1, 3, 3, channels), np.float32)
    dy[0, 0, 1] = np.nan
    _, cache = kernels.depthwise_forward(np.zeros((1, 6, 6, channels), np.float32), w, 2)
    dx, _ = kernels.depthwise_backward(dy, cache)
    np.testing.assert_array_equal(dx[0, 2:], 0)  # output row 0 has seen rows 0 and 1 alone
    x, dy = (np.ones((1, 2, 7, channels), np.float32) for _ in range(2))
    dy[:, :, 6] = np.inf  # in a strip that reaches beyond the row
    dx, _ = kernels.depthwise_backward(dy, kernels.depthwise_forward(x, w)[1])
    assert np.isfinite(dx[:, :, :5]).all()


def as_float64(arrays):
    return [a.astype(np.float64) for a in arrays]


def results_of(ops, name, inputs, others, dy):
    """What an op's pair returns, as a list: y, then the gradients."""
    forward, backward = forward_and_backward(ops, name)
    y, cache, *_ = forward(*inputs, *others)
    gradients = backward(dy, cache)
    return [y, *(gradients if isinstance(gradients, tuple) else (gradients,))]


def size_of_terms(name, inputs, others, dy):
    """How large the numbers are that each result was summed from: float32 rounds relative to them.

    All ops but batch norm are sums of products, so the same op on absolute values gives it.
    """
    if name != "batchnorm":
        return [np.abs(r).max() for r in results_of(ops, name, [np.abs(a) for a in inputs], others, np.abs(dy))]
    x, gamma, beta = inputs
    inv_std = 1 / np.sqrt(x.var(axis=(0, 1, 2)) + (others[0] if others else 1e-5))
    xhat = (np.abs(x).max(axis=(0, 1, 2)) + np.abs(x.mean(axis=(0, 1, 2)))) * inv_std  # before the mean is taken off
    slope = np.abs(gamma) * inv_std * np.abs(dy).max(axis=(0, 1, 2)) * (1 + xhat**2)
    sums = np.abs(dy).sum(axis=(0, 1, 2))
    return [(np.abs(gamma) * xhat + np.abs(beta)).max(), slope.max(), (sums * xhat).max(), sums.max()]


def compare(name, inputs, others, rng):
    """Forward and backward of the kernel `name` against the op, on the same float32 numbers."""
    exact = as_float64(inputs)
    dy = rng.normal(size=forward_and_backward(ops, name)[0](*exact, *others)[0].shape).astype(np.float32)
    ours = results_of(kernels, name, inputs, others, dy)
    judges = results_of(ops, name, exact, others, dy.astype(np.float64))
    sizes = size_of_terms(name, exact, others, dy.astype(np.float64))
    for a, b, size in zip(ours, judges, sizes, strict=True):
        assert relative_error(a.astype(np.float64), b, size) <= TOLERANCE


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    n=st.integers(1, 3),
    h=SIDE,
    w=SIDE,
    c=CHANNELS,
    k=st.sampled_from([(3, 3), (1, 1), (5, 5), (2, 2), (3, 1)]),
    stride=st.integers(1, 3),
    padding=st.sampled_from(["symmetric", "tf"]),
    seed=st.integers(0, 2**16),
)
def test_depthwise(n, h, w, c, k, stride, padding, seed):
    if k[0] == 2 and min(h, w) < 2:
        padding = "tf"  # an even kernel has no symmetric padding to fit into one pixel
    rng = np.random.default_rng(seed)
    x, weight = rng.normal(size=(n, h, w, c)).astype(np.float32), rng.normal(size=(*k, c)).astype(np.float32)
    compare("depthwise", [x, weight], (stride, padding), rng)


@pytest.mark.parametrize(("h", "w"), [(1, 1), (2, 2), (3, 3), (4, 4), (2, 12), (5, 5), (5, 8), (7, 7), (6, 14)])
@pytest.mark.parametrize(("stride", "padding"), [(1, "symmetric"), (2, "symmetric"), (2, "tf")])
@pytest.mark.parametrize("c", [LANES, 2 * LANES + 5])
def test_depthwise_strips(h, w, c, stride, padding):
    """Rows of whole strips of four pixels, and rows whose first or last strip reaches beyond them."""
    rng = np.random.default_rng(h + w)
    x = rng.normal(size=(3, h, w, c)).astype(np.float32)
    compare("depthwise", [x, rng.normal(size=(3, 3, c)).astype(np.float32)], (stride, padding), rng)


@pytest.mark.parametrize(("stride", "padding"), [(1, "symmetric"), (2, "symmetric"), (2, "tf")])
@pytest.mark.parametrize(("h", "w", "c"), [(1, 1, 3), (6, 3, LANES), (6, 10, LANES + 3)])
def test_asking_for_memory_ahead_changes_no_bit(h, w, c, stride, padding, monkeypatch):
    rng = np.random.default_rng(w)
    x, weights = (rng.normal(size=size).astype(np.float32) for size in ((2, h, w, c), (3, 3, c)))

    def results():
        y, cache = kernels.depthwise_forward(x, weights, stride, padding)
        return [y, *kernels.depthwise_backward(y, cache)]

    near = results()
    assert compile.far(x) is None
    monkeypatch.setattr(compile, "FAR_BYTES", 0)
    assert compile.far(x) is True
    for a, b in zip(near, results(), strict=True):
        assert np.array_equal(a, b)


@settings(max_examples=EXAMPLES, deadline=None)
@given(n=st.integers(1, 20), h=SIDE, w=SIDE, c=CHANNELS, seed=st.integers(0, 2**16))
def test_batchnorm(n, h, w, c, seed):
    rng = np.random.default_rng(seed)
    x = (1 + 2 * rng.normal(size=(n + 3, h, w, c))).astype(np.float32)
    gamma, beta = rng.normal(size=(2, c)).astype(np.float32)
    compare("batchnorm", [x, gamma, beta], (1e-3,), rng)
    mean, var = rng.normal(size=c).astype(np.float32), rng.uniform(0.1, 2, c).astype(np.float32)
    y = kernels.batchnorm_inference(x, gamma, beta, mean, var)
    y64 = ops.batchnorm_inference(*as_float64([x, gamma, beta, mean, var]))
    size = (np.abs(gamma) * (np.abs(x) + np.abs(mean)) / np.sqrt(var) + np.abs(beta)).max()
    assert relative_error(y.astype(np.float64), y64, size) <= TOLERANCE


@pytest.mark.parametrize("implementation", [ops, kernels])
@pytest.mark.parametrize("mean", [300.125, 300.1, 1e6 + 0.03])
def test_batchnorm_of_channels_whose_mean_is_large_beside_their_spread(implementation, mean):
    """They must not drown in what sums and products of the mean round off, nor in the rounding of the mean itself.

    The spread is a few times what float32 can tell apart near the mean; every other channel is constant.
    """
    rng = np.random.default_rng(4)
    steps = rng.integers(-20, 21, size=(15, 20, 20, 1)) * np.spacing(np.float32(mean))
    x = (mean + np.concatenate([0 * steps, steps, 0 * steps, -steps], axis=3)).astype(np.float32)
    gamma, beta = rng.normal(size=(2, 4)).astype(np.float32)
    dy = rng.normal(size=x.shape).astype(np.float32)
    y, cache, _, var = implementation.batchnorm_forward(x, gamma, beta, 1e-6)
    y64, cache64, mean64, var64 = ops.batchnorm_forward(*as_float64([x, gamma, beta]), 1e-6)
    np.testing.assert_allclose(var, var64, rtol=1e-6, atol=0)
    np.testing.assert_allclose(y, y64, rtol=0, atol=1e-5)
    gradients, exact = implementation.batchnorm_backward(dy, cache), ops.batchnorm_backward(dy, cache64)
    for a, b in zip(gradients, exact, strict=True):
        assert relative_error(a.astype(np.float64), b, np.abs(b).max()) <= 1e-5
    # In evaluation the running mean is a float32: of the channel's numbers, not rounded away from them.
    running = [a.astype(np.float32) for a in (mean64, var64)]
    y = implementation.batchnorm_inference(x, gamma, beta, *running, 1e-6)
    y64 = ops.batchnorm_inference(*as_float64([x, gamma, beta, *running]), 1e-6)
    np.testing.assert_allclose(y, y64, rtol=0, atol=1e-5)


@pytest.mark.parametrize("implementation", [ops, kernels])
def test_a_global_mean_counts_every_pixel(implementation):
    """To 2**24 a running sum in float32 can add a thousand ones, and remains 2**24."""
    x = np.ones((2, 11, 91, 3), np.float32)
    x[:, 0, 0] = 2**24
    y, _ = implementation.global_avgpool_forward(x)
    np.testing.assert_allclose(y, (2**24 + 1000) / 1001, rtol=1e-6)


@pytest.mark.parametrize("implementation", [ops, kernels])
def test_a_mean_over_a_large_window_counts_every_pixel(implementation):
    x = np.ones((2, 33, 32, 3), np.float32)
    x[:, 0, 0] = 2**24
    y, _ = implementation.avgpool_forward(x, 32)
    np.testing.assert_allclose(y, np.full((2, 1, 1, 3), (2**24 + 1023) / 1024), rtol=1e-6)


@pytest.mark.parametrize("implementation", [ops, kernels])
def test_a_depthwise_filter_sums_over_every_pixel(implementation):
    x = np.ones((1, 91, 11, 3), np.float32)
    x[:, 0, 0] = 2**24
    _, cache = implementation.depthwise_forward(x, np.ones((1, 1, 3), np.float32))
    _, dw = implementation.depthwise_backward(np.ones_like(x), cache)
    np.testing.assert_allclose(dw, np.full((1, 1, 3), 2**24 + 1000), rtol=2e-6)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    name=st.sampled_from(["avgpool", "maxpool"]),
    n=st.integers(1, 3),
    h=SIDE,
    w=SIDE,
    c=CHANNELS,
    size=st.integers(1, 4),
    stride=st.sampled_from([None, 1, 2, 3]),
    seed=st.integers(0, 2**16),
)
def test_pooling_with_ties(name, n, h, w, c, size, stride, seed):
    size = min(size, h, w)
    rng = np.random.default_rng(seed)
    x = np.round(2 * rng.normal(size=(n, h, w, c))).astype(np.float32)
    compare(name, [x], (size, stride), rng)


@pytest.mark.parametrize("name", NAMES)
def test_every_kernel_on_a_plain_case(name):
    rng = np.random.default_rng(5)
    inputs, others = make_case(name, 3, 4, 5, 7, rng, np.float32)
    compare(name, inputs, others, rng)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("relu", "dropout")])  # those are ops' own
def test_float64_is_refused(name):
    """A kernel compiled for it would be slow, and a second one to compile."""
    inputs, others = make_case(name, 2, 4, 4, 5, np.random.default_rng(3), np.float32)
    forward, backward = forward_and_backward(kernels, name)
    for i in range(len(inputs)):
        with pytest.raises(ConfigError, match=r'must be float32 .* got float64; use backend="numpy"'):
            forward(*inputs[:i], inputs[i].astype(np.float64), *inputs[i + 1 :], *others)
    y, cache, *_ = forward(*inputs, *others)
    with pytest.raises(ConfigError, match="dy must be float32"):
        backward(y.astype(np.float64), cache)


def test_batchnorm_inference_refuses_float64():
    inputs = [np.ones((2, 3, 3, 5), np.float32), *np.ones((4, 5), np.float32)]
    for i in range(len(inputs)):
        with pytest.raises(ConfigError, match="must be float32"):
            kernels.batchnorm_inference(*inputs[:i], inputs[i].astype(np.float64), *inputs[i + 1 :])


def test_relu6_at_the_kinks():
    x = np.array([-1, -0.0, 0.0, 1e-30, 3, 6, np.nextafter(np.float32(6), np.float32(0)), 7], np.float32)
    dy = np.arange(1, 9, dtype=np.float32)
    y, cache = kernels.relu6_forward(x)
    y_op, cache_op = ops.relu6_forward(x)
    np.testing.assert_array_equal(y, y_op)
    np.testing.assert_array_equal(kernels.relu6_backward(dy, cache), ops.relu6_backward(dy, cache_op))


def test_relu6_of_a_single_number_is_one():
    y, cache = kernels.relu6_forward(np.array(7, np.float32))
    assert (y.shape, float(y)) == ((), 6.0)
    assert kernels.relu6_backward(np.array(2, np.float32), cache).shape == ()


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("dropout", "linear")])
def test_a_nan_stays_a_nan(name):
    """A run that diverges must be seen to diverge: fast-math must not turn NaN into a number."""
    rng = np.random.default_rng(2)
    inputs, others = make_case(name, 2, 4, 4, 5, rng, np.float32)
    inputs[0][1, 2, 2, 3] = np.nan
    forward, _ = forward_and_backward(kernels, name)
    assert np.isnan(forward(*inputs, *others)[0]).any()


THREADS = """
import sys, hashlib, numpy as np, numba
from tinymnv1 import kernels
numba.set_num_threads(int(sys.argv[1]))
rng = np.random.default_rng(0)
x = rng.normal(size=(19, 9, 7, 21)).astype(np.float32)
w = rng.normal(size=(3, 3, 21)).astype(np.float32)
gamma, beta = rng.normal(size=(2, 21)).astype(np.float32)
digest = hashlib.sha256()
y, cache = kernels.depthwise_forward(x, w, 2)
results = [y, *kernels.depthwise_backward(y, cache)]
# Many rows; few, so that the channels are cut into groups; much memory.
for size, geometry in (((20, 5, 8, 21), (1,)), ((1, 2, 5, 70), (2, "tf")), ((8, 64, 65, 70), (1,))):
    strips = rng.normal(size=size).astype(np.float32)
    y, cache = kernels.depthwise_forward(strips, rng.normal(size=(3, 3, size[3])).astype(np.float32), *geometry)
    results += [y, *kernels.depthwise_backward(y, cache)]
y, cache, mean, var = kernels.batchnorm_forward(x, gamma, beta)
results += [y, mean, var, *kernels.batchnorm_backward(x, cache)]
results.append(kernels.global_avgpool_forward(x)[0])
for cin, cout in ((5, 9), (130, 140)):  # sums over pixels in chunks, and shared out by rows
    pixels = rng.normal(size=(3, 20, 20, cin)).astype(np.float32)
    y, cache = kernels.pointwise_forward(pixels, rng.normal(size=(cin, cout)).astype(np.float32))
    results += [y, *kernels.pointwise_backward(y, cache)]
y, cache = kernels.conv2d_forward(x, rng.normal(size=(3, 3, 21, 4)).astype(np.float32), 2)
results += [y, *kernels.conv2d_backward(y, cache)]
for r in results:
    digest.update(np.ascontiguousarray(r).tobytes())
print(digest.hexdigest())
"""


@pytest.mark.skipif(not JIT, reason="without the compiler there are no threads")
def test_results_do_not_depend_on_the_number_of_threads():
    """Bit for bit: otherwise a run cannot be reproduced on another machine."""

    def digest(threads):
        environment = os.environ | {"NUMBA_NUM_THREADS": "4"}
        command = [sys.executable, "-c", THREADS, str(threads)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert digest(1) == digest(2) == digest(4) != ""


def test_outputs_begin_on_a_cache_line():
    """The next kernel reads them in whole vectors; out of step, each touches two lines. np.empty is out of step."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 5, 5, 19)).astype(np.float32), rng.normal(size=(3, 3, 19)).astype(np.float32)
    y, cache = kernels.depthwise_forward(x, w)
    normal, norm_cache, _, _ = kernels.batchnorm_forward(y, np.ones(19, np.float32), np.zeros(19, np.float32))
    a, mask = kernels.relu6_forward(normal)
    product, product_cache = kernels.pointwise_forward(a, w[0].T.copy())
    gradients = (
        *kernels.pointwise_backward(product, product_cache),
        kernels.relu6_backward(a, mask),
        *kernels.batchnorm_backward(a, norm_cache),
        *kernels.depthwise_backward(y, cache),
    )
    large = [array for array in (y, normal, a, product, *gradients) if array.ndim == 4]
    assert len(large) == 8
    for array in large:
        assert array.ctypes.data % 64 == 0
