"""A correct op passes, however it is written and whatever the seed."""

import pytest
from gradcheck.implementations import CORRECT

from tinymnv1.gradcheck.findings import PASSED
from tinymnv1.gradcheck.grade import grade_functions
from tinymnv1.gradcheck.report import text
from tinymnv1.gradcheck.spec import select

SEEDS = 50


@pytest.mark.parametrize(
    ("op", "build"), [pytest.param(op, build, id=build.__name__) for op, builds in CORRECT.items() for build in builds]
)
def test_correct_implementations_pass_for_every_seed(op, build):
    (spec,) = (spec for spec in select(op) if spec.name == op)
    for seed in range(SEEDS):
        results = grade_functions(spec, build(), seed, golden=seed == 0)
        assert {result.status for result in results} == {PASSED}, f"seed {seed}\n{text(results)}"
