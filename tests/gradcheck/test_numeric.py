"""The library: it finds right gradients right and wrong ones wrong, and touches nothing of its caller's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinymnv1.errors import ConfigError
from tinymnv1.gradcheck import check_directional, check_gradient, numeric_gradient, relative_error


def swish_forward(x):
    s = 1 / (1 + np.exp(-x))
    return x * s, (x, s)


def swish_backward(dy, cache):
    x, s = cache
    return dy * (s + x * s * (1 - s))


def test_numeric_gradient_of_a_cube():
    x = np.random.default_rng(0).normal(size=(3, 4))
    dy = np.random.default_rng(1).normal(size=(3, 4))
    np.testing.assert_allclose(numeric_gradient(lambda a: a**3, x, dy), 3 * x**2 * dy, rtol=1e-8, atol=1e-9)


def test_numeric_gradient_in_float32_is_only_good_to_a_few_digits():
    x = np.random.default_rng(0).normal(size=5).astype(np.float32)
    gradient = numeric_gradient(np.sin, x)
    assert gradient.dtype == np.float32
    assert 1e-8 < np.abs(gradient - np.cos(x)).max() < 1e-3


@pytest.mark.parametrize(("x", "h"), [(np.arange(3), None), (np.ones(3), 0.0), (np.ones(3), -1e-5)])
def test_numeric_gradient_refuses_what_cannot_work(x, h):
    with pytest.raises(ConfigError):
        numeric_gradient(np.sin, x, h=h)


def test_the_callers_array_is_never_touched_even_when_f_raises():
    x = np.ones(3)
    x.flags.writeable = False

    def f(a):
        assert a is not x
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        numeric_gradient(f, x)


def test_f_may_return_the_same_buffer_each_time():
    buffer = np.empty(3)

    def f(a):
        buffer[:] = a**2
        return buffer

    np.testing.assert_allclose(numeric_gradient(f, np.array([1.0, 2, 3])), [2, 4, 6], rtol=1e-8)


def test_a_forward_that_writes_to_its_inputs_writes_to_copies():
    """It is still a function: a ReLU in place is a ReLU."""

    def forward(x, w):
        mask = x > 0
        x *= mask
        w *= 2
        return x * w / 2, (x, mask, w / 2)

    def backward(dy, cache):
        x, mask, w = cache
        return dy * w * mask, dy * x

    inputs = {"x": np.array([-1.0, 2, -3, 4]), "w": np.array([1.0, 2, 3, -4])}
    before = {name: array.copy() for name, array in inputs.items()}
    assert check_gradient(forward, backward, inputs).passed
    for name, array in inputs.items():
        np.testing.assert_array_equal(array, before[name])


def test_check_gradient_passes_a_swish_and_finds_a_wrong_one():
    x = {"x": np.random.default_rng(0).normal(size=(4, 5))}
    right = check_gradient(swish_forward, swish_backward, x)
    assert right.passed
    assert right.error < 1e-8
    wrong = check_gradient(swish_forward, lambda dy, cache: dy * cache[1], x)
    assert not wrong.passed
    assert wrong.error > 0.01
    assert "WRONG" in str(wrong)
    (check,) = wrong.arguments
    worst = np.unravel_index(np.argmax(np.abs(check.analytic - check.numeric)), (4, 5))
    assert check.where == worst


def test_check_gradient_needs_float64_and_the_right_number_of_gradients():
    with pytest.raises(ConfigError, match="float64"):
        check_gradient(swish_forward, swish_backward, {"x": np.ones(3, np.float32)})
    with pytest.raises(ConfigError, match="2 inputs, but backward returned 1"):
        check_gradient(lambda a, b: (a * b, None), lambda dy, c: dy, {"a": np.ones(3), "b": np.ones(3)})


def test_check_gradient_reports_a_wrong_shape_and_leaves_none_unchecked():
    inputs = {"a": np.ones(3), "b": np.ones(3)}
    check = check_gradient(lambda a, b: (a * b, (a, b)), lambda dy, c: (np.ones((3, 1)), None), inputs)
    assert [c.argument for c in check.arguments] == ["a"]
    assert "shape (3, 1)" in str(check)
    assert not check.passed


def test_nothing_checked_is_not_a_pass():
    x = {"x": np.ones(3)}
    check = check_gradient(lambda x: (x**2, x), lambda dy, cache: None, x)
    assert not check.passed
    assert "return missing" in str(check)
    with pytest.raises(ConfigError, match="nothing to check with 1 parameters and 0 directions"):
        check_directional(lambda: 1.0, x, x, directions=0)
    with pytest.raises(ConfigError, match="nothing to check with 0 parameters"):
        check_directional(lambda: 1.0, {}, {})


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_verdict_does_not_depend_on_the_unit(scale):
    """A wrong gradient of a tiny function is as wrong as that of a large one, and a right one as right."""
    x = {"x": np.random.default_rng(0).normal(size=6)}

    def forward(a):
        return scale * np.sin(a), a

    assert check_gradient(forward, lambda dy, a: scale * np.cos(a) * dy, x).passed
    assert not check_gradient(forward, lambda dy, a: 1.001 * scale * np.cos(a) * dy, x).passed


def test_a_gradient_that_is_zero_everywhere_passes():
    """Normalising takes the scale out, so along x the sum of squares is constant: numeric and analytic are rounding."""

    def forward(x):
        return (x / np.linalg.norm(x)) ** 2 @ np.ones(4), None

    x = np.random.default_rng(0).normal(size=4)
    assert check_gradient(forward, lambda dy, c: np.zeros(4), {"x": x}).passed
    assert not check_gradient(forward, lambda dy, c: np.full(4, 0.01) * dy, {"x": x}).passed


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_relative_error_is_zero_only_for_equal_arrays_and_infinite_for_nan(values):
    a = np.array(values)
    assert relative_error(a, a).max() == 0
    off = a.copy()
    off[0] += 1 + abs(off[0])
    assert relative_error(off, a).max() > 0
    off[0] = np.nan
    assert relative_error(off, a)[0] == np.inf


def two_layers():
    rng = np.random.default_rng(3)
    x, t = rng.normal(size=(6, 4)), rng.normal(size=(6, 2))
    parameters = {"w1": rng.normal(size=(4, 5)), "w2": rng.normal(size=(5, 2))}

    def loss():
        return float(((np.maximum(x @ parameters["w1"], 0) @ parameters["w2"] - t) ** 2).sum())

    hidden = np.maximum(x @ parameters["w1"], 0)
    d = 2 * (hidden @ parameters["w2"] - t)
    gradients = {"w1": x.T @ (d @ parameters["w2"].T * (hidden > 0)), "w2": hidden.T @ d}
    return loss, parameters, gradients


def test_a_check_can_be_asserted():
    x = np.random.default_rng(0).normal(size=(2, 3))
    right = check_gradient(lambda a: (a * a, a), lambda dy, a: 2 * a * dy, {"x": x})
    wrong = check_gradient(lambda a: (a * a, a), lambda dy, a: a * dy, {"x": x})
    assert right
    assert not wrong


def test_check_directional_sees_a_whole_network():
    loss, parameters, gradients = two_layers()
    assert check_directional(loss, parameters, gradients).passed
    wrong = {**gradients, "w1": gradients["w1"] * 1.01}
    assert not check_directional(loss, parameters, wrong).passed
    assert check_directional(loss, list(parameters.values()), list(gradients.values())).passed


def test_check_directional_knows_what_rounding_hides():
    """A gradient of 1e-4 in a loss of a million: the loss itself is rounded to 1e-10, its slope to 0.004."""
    x = np.random.default_rng(3).normal(size=50)
    large = 1e6

    def loss():
        return large + 1e-4 * np.sin(x).sum()

    assert check_directional(loss, [x], [1e-4 * np.cos(x)]).passed
    large = 0.0
    assert check_directional(loss, [x], [1e-4 * np.cos(x)]).passed
    assert not check_directional(loss, [x], [1.001e-4 * np.cos(x)]).passed


def test_check_directional_puts_the_parameters_back_to_the_bit():
    loss, parameters, gradients = two_layers()
    before = {name: array.copy() for name, array in parameters.items()}
    check_directional(loss, parameters, gradients)

    def broken():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        check_directional(broken, parameters, gradients)
    for name, array in parameters.items():
        np.testing.assert_array_equal(array, before[name])


def test_check_directional_refuses_what_does_not_fit():
    loss, parameters, gradients = two_layers()
    with pytest.raises(ConfigError, match="parameters"):
        check_directional(loss, parameters, {"w1": gradients["w1"]})
    with pytest.raises(ConfigError, match="float64"):
        check_directional(loss, {"w": np.ones(3, np.float32)}, {"w": np.ones(3)})
    with pytest.raises(ConfigError, match="step"):
        check_directional(loss, parameters, gradients, h=0.0)
