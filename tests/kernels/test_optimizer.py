"""The optimizers' compiled steps against their formulas in float64, on arrays that no vector and no block divides."""

import os
import subprocess
import sys

import numba
import numpy as np
import pytest
from numeric import relative_error

from tinymnv1 import kernels, ops
from tinymnv1.errors import ConfigError
from tinymnv1.kernels.optimizer import BLOCK

JIT = not numba.config.DISABLE_JIT
SIZES = [0, 1, 15, 16, 17, 1000, 2 * BLOCK + 5]

# name -> (how many arrays, the other arguments)
STEPS = {
    "sgd_step": [
        (3, (0.1,)),
        (3, (0.1, 0.9)),
        (3, (0.1, 0.9, False, 0.01)),
        (3, (0.1, 0.9, True, 0.01)),
    ],
    "adam_step": [
        (4, (1, 1e-2)),
        (4, (3, 1e-2, 0.8, 0.99, 1e-6, 0.1)),
        (4, (1000, 1e-2, 0.9, 0.999, 1e-8, 0.1, True)),
        (4, (3, 1e-2, 0.0, 0.05, 1e-6, 0.1)),
    ],
    "average_step": [
        (2, (0.9,)),
        (2, (0.9995,)),
        (2, (0.05,)),
    ],
}
CASES = [(name, count, others) for name, cases in STEPS.items() for count, others in cases]


def random_arrays(count, size, seed=0):
    """w, grad and the optimizer's state (or an average, and w); the last is positive, as Adam's squares are."""
    arrays = np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)
    arrays[-1] = np.abs(arrays[-1])
    return list(arrays)


def judged(array, judge):
    return relative_error(array.astype(np.float64), judge) if array.size else 0.0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("name", "count", "others"), CASES)
def test_a_step_is_its_formula(name, count, others, size):
    arrays = random_arrays(count, size)
    exact = [a.astype(np.float64) for a in arrays]
    grad = arrays[1].copy()
    getattr(kernels, name)(*arrays, *others)
    getattr(ops, name)(*exact, *others)
    for ours, judge in zip(arrays, exact, strict=True):
        assert judged(ours, judge) <= 1e-6
    np.testing.assert_array_equal(arrays[1], grad)


@pytest.mark.parametrize("size", SIZES)
def test_the_parts_of_clipping(size):
    x = random_arrays(1, size)[0]
    assert kernels.sum_of_squares(x) == pytest.approx(ops.sum_of_squares(x.astype(np.float64)), rel=1e-12)
    scaled = x.copy()
    kernels.scale_in_place(scaled, 0.3)
    np.testing.assert_array_equal(scaled, x * np.float32(0.3))


@pytest.mark.parametrize("module", [ops, kernels])
def test_the_squares_of_large_gradients_do_not_overflow(module):
    """In float32 the norm would be infinite, and clipping would set every gradient to zero."""
    assert module.sum_of_squares(np.full(20, 1e20, np.float32)) == pytest.approx(20e40, rel=1e-5)


@pytest.mark.parametrize(("name", "count", "others"), CASES)
def test_a_nan_in_the_gradient_reaches_the_weight(name, count, others):
    arrays = random_arrays(count, 40)
    arrays[1][33] = np.nan
    getattr(kernels, name)(*arrays, *others)
    assert np.flatnonzero(np.isnan(arrays[0])).tolist() == [33]


def test_arrays_that_cannot_be_changed_in_place_are_refused():
    w, grad, velocity = random_arrays(3, 40)
    with pytest.raises(ConfigError, match="velocity must be C-contiguous"):
        kernels.sgd_step(w[:20], grad[:20], velocity[::2], 0.1)
    with pytest.raises(ConfigError, match=r"grad must be \(40,\)"):
        kernels.sgd_step(w, grad[:20], velocity, 0.1)
    with pytest.raises(ConfigError, match="float32"):
        kernels.sgd_step(w.astype(np.float64), grad, velocity, 0.1)


THREADS = """
import sys, hashlib, numpy as np, numba
from tinymnv1 import kernels
numba.set_num_threads(int(sys.argv[1]))
w, grad, mean, square = np.random.default_rng(0).normal(size=(4, 100_003)).astype(np.float32)
square = abs(square)
kernels.sgd_step(w, grad, mean, 0.1, 0.9, True, 0.01)
kernels.adam_step(w, grad, mean, square, 2, 1e-2, weight_decay=0.1)
kernels.average_step(mean, w, 0.99)
kernels.scale_in_place(grad, 0.3)
norm = np.array(kernels.sum_of_squares(grad))
print(hashlib.sha256(b"".join(a.tobytes() for a in (w, grad, mean, square, norm))).hexdigest())
"""


@pytest.mark.skipif(not JIT, reason="without the compiler there are no threads")
def test_steps_do_not_depend_on_the_number_of_threads():
    def digest(threads):
        environment = os.environ | {"NUMBA_NUM_THREADS": "4"}
        command = [sys.executable, "-c", THREADS, str(threads)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert digest(1) == digest(3) == digest(4) != ""


@pytest.mark.parametrize("implementation", [ops, kernels])
def test_an_average_that_keeps_nothing_forgets_a_large_number(implementation):
    """Adam with betas of 0 is a step of lr along the sign; what is left of a squared gradient of 1e8 would be 0."""
    average = np.full(20, 1e6, np.float32)
    implementation.average_step(average, np.full(20, 1e-3, np.float32), 0.0)
    np.testing.assert_array_equal(average, np.float32(1e-3))
    w, mean, square = np.ones(20, np.float32), np.zeros(20, np.float32), np.zeros(20, np.float32)
    for step, gradient in enumerate((1e4, 1e-3, -1e-3), 1):
        grad = np.full(20, gradient, np.float32)
        implementation.adam_step(w, grad, mean, square, step, 0.01, beta1=0.0, beta2=0.0)
    np.testing.assert_allclose(w, 0.99, rtol=1e-5)
