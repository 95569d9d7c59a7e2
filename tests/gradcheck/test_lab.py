"""The mutation lab: good checks catch the mutants, weak ones let some live, bad ones raise false alarms."""

import textwrap

import pytest

from tinymnv1.errors import ConfigError
from tinymnv1.gradcheck.lab import CAUGHT, NO_CHECK, SURVIVES, run_lab, text
from tinymnv1.gradcheck.mutants import MUTANTS
from tinymnv1.gradcheck.spec import select

WITH_ONES = """
import numpy as np
from tinymnv1.gradcheck import numeric_gradient

def check_batchnorm(ops):
    rng = np.random.default_rng(0)
    x, gamma, beta = rng.normal(size=(2, 3, 3, 2)), rng.normal(size=2), rng.normal(size=2)
    y, cache, _, _ = ops.batchnorm_forward(x, gamma, beta)
    dx = ops.batchnorm_backward(np.ones_like(y), cache)[0]
    numeric = numeric_gradient(lambda a: ops.batchnorm_forward(a, gamma, beta)[0], x, np.ones_like(y))
    assert abs(dx - numeric).max() < 1e-6
"""

WITH_RANDOM = """
import numpy as np
from functools import partial
from tinymnv1.gradcheck import check_gradient

def check_batchnorm(ops):
    rng = np.random.default_rng(0)
    inputs = {"x": rng.normal(size=(2, 3, 3, 2)), "gamma": rng.normal(size=2), "beta": rng.normal(size=2)}
    return check_gradient(ops.batchnorm_forward, ops.batchnorm_backward, inputs).passed
"""


def lab(folder, content, only, **options):
    path = folder / "my_checks.py"
    path.write_text(textwrap.dedent(content), encoding="utf-8")
    result = run_lab(path, select(only), **options)
    return result, {verdict.mutant.name: verdict.status for verdict in result.verdicts}


def test_ones_let_mutants_live_that_random_numbers_catch(tmp_path):
    weak, alive = lab(tmp_path, WITH_ONES, "batchnorm_forward")
    assert not weak.false_alarms
    assert alive["batchnorm_no_third_term"] == SURVIVES
    assert alive["batchnorm_no_mean_term"] == CAUGHT
    assert not weak.passed
    strong, caught = lab(tmp_path, WITH_RANDOM, "batchnorm_forward")
    assert caught["batchnorm_no_third_term"] == CAUGHT
    assert sum(status == CAUGHT for status in caught.values()) > sum(status == CAUGHT for status in alive.values())
    assert "SURVIVES     batchnorm_one_pass_variance" in text(strong)  # right in float64: needs another check


def test_a_check_that_always_objects_knows_nothing(tmp_path):
    result, status = lab(tmp_path, "def check_relu(ops):\n    assert False, 'no'\n", "relu")
    assert "line 2: AssertionError: no" in result.false_alarms["check_relu"]
    assert status == {"relu_leaky": NO_CHECK}
    assert not result.passed
    assert "FALSE ALARM  check_relu" in text(result)


def test_a_check_may_return_numpys_false(tmp_path):
    """The natural last line compares arrays; what that gives is not Python's False."""
    result, status = lab(tmp_path, "import numpy as np\ndef check_relu(ops):\n    return np.bool_(False)\n", "relu")
    assert "returned False" in result.false_alarms["check_relu"]
    assert status == {"relu_leaky": NO_CHECK}


def test_a_check_that_always_agrees_catches_nothing(tmp_path):
    result, status = lab(tmp_path, "def check_everything(ops):\n    pass\n", "relu,softmax")
    assert set(status.values()) == {SURVIVES}
    assert not result.passed
    assert "0 of 2 mutants caught, 2 survive" in text(result)


def test_a_check_without_a_mutant_to_it_is_said(tmp_path):
    result, status = lab(tmp_path, "def check_relu(ops):\n    pass\n", "linear")
    assert set(status.values()) == {NO_CHECK}
    assert not result.passed, "nothing was tried"
    assert "no check yet for linear (2)" in text(result)


def test_a_check_that_hangs_on_a_mutant_has_not_caught_it(tmp_path):
    content = """
    import numpy as np
    def check_relu(ops):
        while ops.relu_forward(np.array([-1.0]))[0][0] != 0:
            pass
    """
    result, status = lab(tmp_path, content, "relu", seconds=2.0)
    assert status == {"relu_leaky": SURVIVES}
    assert "not finished after 2 s" in result.verdicts[0].how


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("x = (\n", "line 1: cannot be imported: SyntaxError"),
        ("def relu_forward(x):\n    pass\n", "it defines no check"),
        ("def check_relu(ops):\n    while True: pass\n", "on the right ops, its checks not finished after 2 s"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_error(content, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        lab(tmp_path, content, "relu", seconds=2.0 if "2 s" in told else 30.0)


def test_right_and_broken_ops_look_alike():
    """A check has only the results to go by: same names, same kind of object."""
    from tinymnv1.gradcheck.mutants import right_functions

    for mutant in MUTANTS:
        assert vars(mutant.ops()).keys() == right_functions().keys()
        assert set(mutant.build()) <= set(mutant.spec.functions)
