"""The lessons as tests: every array that every op returns, on random inputs and against PyTorch's stored results.

    pytest -m depthwise                         checks tinymnv1.ops
    pytest --ops my_ops.py -m depthwise         checks your own file, each op in a process of its own

A lesson needs no other lesson's functions, and none needs PyTorch.
"""

from functools import lru_cache
from pathlib import Path

import pytest

from tinymnv1 import ops
from tinymnv1.errors import ConfigError
from tinymnv1.gradcheck.findings import MISSING, NOT_ATTEMPTED
from tinymnv1.gradcheck.grade import grade_file, grade_functions
from tinymnv1.gradcheck.report import text
from tinymnv1.gradcheck.spec import SPECS

CHECKS = [
    pytest.param(spec, name, argument, marks=getattr(pytest.mark, spec.lesson), id=f"{name}-{argument}")
    for spec in SPECS
    for name, arguments in ((spec.forward, spec.outputs), (spec.backward, spec.gradients))
    if name is not None
    for argument in arguments
]


@lru_cache(maxsize=64)
def results_of(spec, file):
    """Function -> result, graded once for all the tests of an op."""
    if file is None:
        results = grade_functions(spec, vars(ops), golden=True)
    else:
        try:
            results = grade_file(Path(file), [spec], golden=True)
        except ConfigError as error:
            pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)
    return {result.function: result for result in results}


@pytest.mark.parametrize(("spec", "function", "argument"), CHECKS)
def test_op(spec, function, argument, request):
    file = request.config.getoption("--ops")
    results = results_of(spec, file)
    result = results[function]
    # Half an op is a mistake, an op that is not there at all may be another lesson's.
    if all(r.status == MISSING for r in results.values()) and not request.config.getoption("markexpr"):
        pytest.skip(f"{function} is not in {file}")
    if result.status in (MISSING, NOT_ATTEMPTED):
        pytest.fail(f"{function}: {result.status}", pytrace=False)
    # An empty argument stands for the call as a whole: an exception, a time-out.
    own = [f for f in result.failures if f.argument in (argument, "") or f.kind in ("mutated", "alias", "unreached")]
    if own:
        pytest.fail(text([result]), pytrace=False)
    assert any(f.argument == argument for f in result.findings), f"nothing was compared for {argument}"
