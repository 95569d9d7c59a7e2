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

JIT = not numba.config.DISABLE_JIT
TOLERANCE = 2e-6  # float32 sums of a few hundred numbers, against float64
EXAMPLES = 40 if JIT else 4
CHANNELS = st.integers(1, 40) if JIT else st.integers(1, 5)
SIDE = st.integers(1, 9) if JIT else st.integers(1, 4)


def as_float64(arrays):
    return [a.astype(np.float64) for a in arrays]


def compare(name, inputs, others, rng, tolerance=TOLERANCE):
    """Forward and backward of the kernel `name` against the op, on the same float32 numbers."""
    ours, judge = forward_and_backward(kernels, name), forward_and_backward(ops, name)
    y, cache, *_ = ours[0](*inputs, *others)
    y64, cache64, *_ = judge[0](*as_float64(inputs), *others)
    assert relative_error(y.astype(np.float64), y64) <= tolerance
    dy = rng.normal(size=y.shape).astype(np.float32)
    gradients, gradients64 = ours[1](dy, cache), judge[1](dy.astype(np.float64), cache64)
    if not isinstance(gradients, tuple):
        gradients, gradients64 = (gradients,), (gradients64,)
    for ours_, judges in zip(gradients, gradients64, strict=True):
        assert relative_error(ours_.astype(np.float64), judges) <= tolerance


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


@settings(max_examples=EXAMPLES, deadline=None)
@given(n=st.integers(1, 20), h=SIDE, w=SIDE, c=CHANNELS, seed=st.integers(0, 2**16))
def test_batchnorm(n, h, w, c, seed):
    rng = np.random.default_rng(seed)
    x = (1 + 2 * rng.normal(size=(n + 3, h, w, c))).astype(np.float32)
    gamma, beta = rng.normal(size=(2, c)).astype(np.float32)
    # dx is what is left of dy when two parts are taken out, so with few pixels it is small beside the round-off.
    compare("batchnorm", [x, gamma, beta], (1e-3,), rng, tolerance=5e-5)
    mean, var = rng.normal(size=c).astype(np.float32), rng.uniform(0.1, 2, c).astype(np.float32)
    y = kernels.batchnorm_inference(x, gamma, beta, mean, var)
    y64 = ops.batchnorm_inference(*as_float64([x, gamma, beta, mean, var]))
    assert relative_error(y.astype(np.float64), y64) <= TOLERANCE


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
    compare(name, inputs, others, rng, tolerance=2e-5)


def test_relu6_at_the_kinks():
    x = np.array([-1, -0.0, 0.0, 1e-30, 3, 6, np.nextafter(np.float32(6), np.float32(0)), 7], np.float32)
    dy = np.arange(1, 9, dtype=np.float32)
    y, cache = kernels.relu6_forward(x)
    y_op, cache_op = ops.relu6_forward(x)
    np.testing.assert_array_equal(y, y_op)
    np.testing.assert_array_equal(kernels.relu6_backward(dy, cache), ops.relu6_backward(dy, cache_op))


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
y, cache, mean, var = kernels.batchnorm_forward(x, gamma, beta)
results += [y, mean, var, *kernels.batchnorm_backward(x, cache)]
y, cache = kernels.global_avgpool_forward(x)
for r in results + [y]:
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
