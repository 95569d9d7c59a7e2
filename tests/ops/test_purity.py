"""Ops are pure: inputs are never written to, and no output shares memory with an input. For both backends.

The pools are called with windows of one pixel and dropout with p = 0, where returning the input itself is tempting.
"""

import numpy as np
import pytest
from cases import NAMES, forward_and_backward, make_case
from hypothesis import given, settings
from hypothesis import strategies as st

from tinymnv1 import kernels, ops

BACKENDS = {"ops": ops, "kernels": kernels}


def arrays_in(result):
    """Every array among a function's results; caches are tuples and are looked at separately."""
    return [r for r in (result if isinstance(result, tuple) else (result,)) if isinstance(r, np.ndarray)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(1, 3),
    h=st.integers(1, 5),
    w=st.integers(1, 5),
    c=st.integers(1, 9),
    seed=st.integers(0, 2**16),
    contiguous=st.booleans(),
)
def test_inputs_stay_and_outputs_are_new(backend, name, n, h, w, c, seed, contiguous):
    module = BACKENDS[backend]
    dtype = np.float32 if backend == "kernels" else np.float64
    rng = np.random.default_rng(seed)
    inputs, others = make_case(name, n, h, w, c, rng, dtype)
    if not contiguous:  # the same values behind another memory layout
        inputs = [np.asfortranarray(a) for a in inputs]
    before = [a.copy() for a in inputs]
    forward, backward = forward_and_backward(module, name)

    y, cache, *statistics = forward(*inputs, *others)
    dy = rng.normal(size=y.shape).astype(dtype)
    dy_before = dy.copy()
    gradients = arrays_in(backward(dy, cache))

    for array, kept in zip([*inputs, dy], [*before, dy_before], strict=True):
        np.testing.assert_array_equal(array, kept)
    for output in [y, *statistics, *gradients]:
        assert output.dtype == dtype
        assert not any(np.shares_memory(output, array) for array in [*inputs, dy])
    for gradient, array in zip(gradients, inputs, strict=True):
        assert gradient.shape == array.shape
        assert not np.shares_memory(gradient, y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_is_pure_too(dtype):
    logits, labels = np.random.default_rng(0).normal(size=(4, 3)).astype(dtype), np.array([0, 2, 1, 1])
    kept = logits.copy()
    loss, dlogits = ops.softmax_cross_entropy(logits, labels, 0.1)
    assert isinstance(loss, float)
    assert dlogits.dtype == dtype
    assert not np.shares_memory(dlogits, logits)
    np.testing.assert_array_equal(logits, kept)


def test_kernels_export_what_ops_export_but_the_naive_versions():
    assert set(kernels.__all__) == {name for name in ops.__all__ if not name.endswith("_naive")}
