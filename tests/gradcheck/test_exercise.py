"""The checks in the notebooks' cells: what passes, what does not, what is not attempted, and what the learner reads."""

import numpy as np
import pytest

from tinymnv1 import kernels, ops
from tinymnv1.errors import ConfigError
from tinymnv1.gradcheck.exercise import check_function, check_gradients, check_op, check_that, check_value, recording
from tinymnv1.gradcheck.findings import FAILED, NOT_ATTEMPTED, PASSED

X = np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -3.0]])


def told(check, *arguments, **options):
    """The one verdict of a check."""
    with recording() as verdicts:
        check(*arguments, **options)
    (verdict,) = verdicts
    return verdict


def stub(*arguments):
    raise NotImplementedError


def returns(result):
    """A function that gives this, whatever it is given."""
    return lambda *arguments: result


def square_forward(x):
    return x * x, x


def relu6_forward(x):
    return np.clip(x, 0, 6), (x > 0) & (x < 6)


def relu6_backward(dy, cache):
    return dy * cache


def relu6_without_mask(dy, cache):
    return dy


relu6_without_mask.__name__ = "relu6_backward"


@pytest.mark.parametrize(
    ("true", "right", "wrong"),
    [
        (3, [3, 3.0, np.int64(3), np.array(3)], [4, "3", (3,), np.array([3]), 3j]),
        (1, [1, 1.0], [True, np.True_]),
        (4_231_976, [4_231_976, 4_231_976.5], [4_231_977]),  # whole numbers are equal, or wrong
        (1.0, [1, 1 + 9e-7], [1 + 1.2e-6, np.nan, np.inf]),
        (0.0, [0, 0.0], [1e-9]),
        (True, [True, np.True_], [False, np.False_, 1, "True"]),
        (np.True_, [True, np.True_], [False, 1]),
        ("sgd", ["sgd", np.str_("sgd")], ["SGD", 0]),
        (np.str_("sgd"), ["sgd"], ["adam"]),
        ((1, 2), [(1, 2), [1, 2]], [(2, 1), (1, 2, 3), (1,), 1, np.array([1, 2])]),
        ((X, None), [(X, None)], [(X, 0), (2 * X, None), (None, None)]),
        (
            X,
            [X, X.astype(np.float32)],
            [X.T, X[:1], X[None], X.tolist(), X.astype(str), 0.5, np.where(X == 2, np.nan, X)],
        ),
        (np.arange(3), [np.arange(3), np.arange(3, dtype=np.uint8), np.arange(3.0)], [np.arange(3) + 0.1]),
        (np.array([10**7, 0]), [np.array([10**7, 0])], [np.array([10**7 + 1, 0])]),
        (X > 0, [X > 0], [X < 0]),
        (np.zeros(0), [np.zeros(0)], [0.0, np.zeros(1)]),
    ],
    ids=str,
)
def test_right_and_wrong_values_and_results(true, right, wrong):
    for status, given in ((PASSED, right), (FAILED, wrong)):
        for yours in given:
            assert told(check_value, "n", yours, true).status == status, yours
            assert told(check_function, returns(yours), [((), true)], tolerance=1e-6).status == status, yours
    assert told(check_value, "n", None, true).status == NOT_ATTEMPTED
    assert told(check_function, returns(None), [((), true)]).status == FAILED


def test_of_several_results_the_wrong_one_is_named():
    verdict = told(check_function, lambda: (1, 2 * X), [((), (1, X))])
    assert "result 2 of 2:\n    6 of 6 elements are wrong, the worst at [1, 2]:" in verdict.text


def test_a_tolerance_is_the_largest_error_that_passes():
    assert told(check_value, "n", 0.75, 1.0, tolerance=0.25).status == PASSED
    assert told(check_value, "n", 0.7499, 1.0, tolerance=0.25).status == FAILED
    assert told(check_function, returns(1 + 2e-9), [((), 1.0)]).status == FAILED  # functions are held to 1e-9


def test_what_the_learner_reads_of_a_value(capsys):
    assert told(check_value, "pixels", 48, 48).text == "pixels: passed\n    yours = 48"
    assert told(check_value, "pixels", None, 48, hint="count").text == "pixels: not attempted yet"
    verdict = told(check_value, "pixels", 49, 48, hint="count them")
    assert verdict.text == "pixels: not right yet\n    yours = 49\n    true  = 48\n    hint: count them"
    assert capsys.readouterr().out.endswith(verdict.text + "\n")
    assert "yours is a list" in told(check_value, "x", X.tolist(), X).text
    assert "yours has shape (3, 2)\n    true  has shape (2, 3)" in told(check_value, "x", X.T, X).text
    assert "2 of 6 elements are wrong, the worst at [1, 2]:" in told(check_value, "x", X + [0.0, 0, 0.1] * X, X).text


def test_a_function_is_held_to_every_case_and_the_wrong_one_is_shown():
    cases = [((2,), 4), ((3,), 9)]
    assert told(check_function, lambda n: n * n, cases).text == "<lambda>: passed\n    2 cases"
    wrong = told(check_function, lambda n: 2 * n, cases)
    assert wrong.text == "<lambda>: not right yet\n    <lambda>(3)\n    yours = 6\n    true  = 9"
    assert told(check_function, stub, cases).text == "stub: not attempted yet"
    assert told(check_function, 3, cases).text.endswith("is 3 by now: run the cell that defines it again")
    applied = told(check_function, lambda f, n: 2 * f(n), [((np.square, 3), 9)])
    assert "<lambda>(square, 3)" in applied.text
    missing = told(check_function, returns(None), cases)
    assert (missing.status, "is the return missing?" in missing.text) == (FAILED, True)


def test_an_exception_is_told_with_the_learners_own_line_not_numpys():
    namespace = {}
    source = "import numpy as np\n\ndef joined(a):\n    return np.stack([a, a[:1]])\n"
    exec(compile(source, "answer", "exec"), namespace)
    verdict = told(check_function, namespace["joined"], [((X,), X)])
    assert verdict.status == FAILED
    assert "raised ValueError: " in verdict.text
    assert verdict.text.endswith("(line 4)")
    assert "line" not in told(check_function, np.sqrt, [(("word",), 1.0)]).text.split("raised")[1]


def test_arrays_that_come_in_are_copies_and_must_stay_as_they_are():
    def doubled(x):
        x *= 2
        return x

    kept, holed = X.copy(), np.array([np.nan, 1.0])
    verdict = told(check_function, doubled, [((kept,), 2 * X)])
    assert (verdict.status, "it writes to its inputs" in verdict.text) == (FAILED, True)
    np.testing.assert_array_equal(kept, X)
    assert told(check_function, np.nansum, [((holed,), 1.0)]).status == PASSED  # NaN is not equal to itself


@pytest.mark.parametrize(
    ("forward", "backward", "status", "words"),
    [
        (square_forward, lambda dy, x: 2 * x * dy, PASSED, "ok"),
        (square_forward, lambda dy, x: (2 * x * dy,), PASSED, "ok"),
        (square_forward, lambda dy, x: x * dy, FAILED, "WRONG"),
        (square_forward, lambda dy, x: np.full_like(x, np.nan), FAILED, "WRONG"),
        (square_forward, lambda dy, x: 2 * x[0] * dy[0], FAILED, "the gradient has shape (3,), the input has (2, 3)"),
        (square_forward, lambda dy, x: None, FAILED, "x            its gradient is None"),
        (square_forward, lambda dy, x: (dy, dy), FAILED, "1 inputs, but backward returned 2 gradients"),
        (square_forward, lambda dy, x: x @ dy, FAILED, "raised ValueError"),
        (returns(None), lambda dy, x: dy, FAILED, "raised TypeError"),
        (square_forward, stub, NOT_ATTEMPTED, "not attempted yet"),
        (stub, stub, NOT_ATTEMPTED, "not attempted yet"),
    ],
)
def test_gradients_of_an_op_of_ones_own(forward, backward, status, words):
    verdict = told(check_gradients, forward, backward, {"x": X})
    assert (verdict.status, words in verdict.text) == (status, True), verdict.text


def test_gradients_within_the_tolerance_pass():
    nearly = (square_forward, lambda dy, x: 2.002 * x * dy, {"x": X})
    assert told(check_gradients, *nearly).status == FAILED
    assert told(check_gradients, *nearly, tolerance=0.01).status == PASSED


@pytest.mark.parametrize(
    ("functions", "statuses", "words"),
    [
        ((relu6_forward, relu6_backward), [PASSED, PASSED], "largest relative errors: dx"),
        ((relu6_forward,), [PASSED], "largest relative errors: y"),
        ((relu6_forward, relu6_without_mask), [PASSED, FAILED], "hint: "),
    ],
)
def test_a_known_op_gets_the_graders_cases_and_hints(functions, statuses, words):
    with recording() as verdicts:
        check_op(*functions)
    assert [v.status for v in verdicts] == statuses
    assert words in verdicts[-1].text


@pytest.mark.parametrize(
    "functions",
    [(ops.relu6_forward,), (kernels.relu6_forward,), (relu6_forward, ops.relu6_backward)],
    ids=["ops", "kernels", "backward"],
)
def test_the_librarys_own_function_is_no_answer(functions):
    verdict = told(check_op, *functions)
    assert verdict.status == FAILED
    assert "this is tinymnv1's own function" in verdict.text


def test_a_forward_of_the_librarys_may_be_given():
    with recording() as verdicts:
        check_op(ops.relu6_forward, relu6_backward)
    assert [v.status for v in verdicts] == [PASSED, PASSED]


def test_where_an_op_raised_is_told():
    namespace = {"__name__": "__main__"}
    exec(compile("def relu6_forward(x):\n    y = x\n    return y + x[:, :1][:0], x\n", "cell", "exec"), namespace)
    assert "line 3: raised ValueError: " in told(check_op, namespace["relu6_forward"]).text


def test_an_op_that_is_a_stub_or_unknown():
    def relu6_forward(x):
        raise NotImplementedError

    assert told(check_op, relu6_forward).status == NOT_ATTEMPTED
    for functions in ((square_forward,), (relu6_backward,), (ops.relu6_forward, ops.relu_backward)):
        with pytest.raises(ConfigError, match=f"knows no op .* {functions[0].__name__}"):
            check_op(*functions)


@pytest.mark.parametrize(
    ("holds", "status"), [(True, PASSED), (np.True_, PASSED), (False, FAILED), (None, NOT_ATTEMPTED)]
)
def test_a_claim(holds, status):
    verdict = told(check_that, "sums to 1", holds, "divide by the sum")
    assert verdict.status == status
    assert ("divide" in verdict.text) == (status == FAILED)


def test_recordings_nest_and_end_even_on_an_exception():
    with recording() as outer:
        with pytest.raises(RuntimeError), recording() as inner:
            raise RuntimeError
        check_that("after", True)  # both lists were still empty, and so equal, when the inner one ended
        with recording() as second:
            check_that("inside", True)
    check_that("outside", True)
    assert (len(outer), len(inner), len(second)) == (2, 0, 1)
