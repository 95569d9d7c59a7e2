"""Every mutant fails, whatever the seed, and the hint names its cause."""

from collections import defaultdict

import pytest

from tinymnv1.gradcheck.diagnosis import ADVICE
from tinymnv1.gradcheck.findings import PASSED
from tinymnv1.gradcheck.grade import grade_functions
from tinymnv1.gradcheck.mutants import MUTANTS
from tinymnv1.gradcheck.ones import compare
from tinymnv1.gradcheck.spec import SPECS, select

SEEDS = 50
BY_OP = defaultdict(list)
for one in MUTANTS:
    BY_OP[one.op].append(one)


def test_the_stock_is_large_and_well_labelled():
    assert len(MUTANTS) >= 20
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert {mutant.op for mutant in MUTANTS} == {spec.name for spec in SPECS}, "every op has a mutant"
    for mutant in MUTANTS:
        assert mutant.cause in ADVICE
        assert mutant.mistake.endswith(".")


@pytest.mark.parametrize("op", BY_OP)
def test_no_mutant_slips_through_and_hints_name_the_cause(op):
    named = 0
    for mutant in BY_OP[op]:
        for seed in range(SEEDS):
            results = grade_functions(mutant.spec, mutant.functions(), seed)
            assert any(result.status != PASSED for result in results), f"{mutant.name} passes with seed {seed}"
            named += mutant.cause in {result.hint.cause for result in results if result.hint}
    share = named / (SEEDS * len(BY_OP[op]))
    assert share >= 0.95, f"{op}: only {share:.0%} of the hints name the cause"


def test_ones_let_broken_batch_norms_pass_and_random_numbers_do_not():
    rows = {row.mutant.name: row for row in compare(select("batchnorm"))}
    fooled = {name for name, row in rows.items() if row.ones <= 1e-6}
    assert fooled == {"batchnorm_no_third_term", "batchnorm_no_gamma", "batchnorm_no_inverse_std"}
    assert all(row.random > 0.01 for row in rows.values())
