"""Why the upstream gradient must be random: what a check with dy = 1 everywhere lets pass.

Batch norm's dx takes out of dy whatever batch norm would undo, and ones are exactly such a thing: the right dx is zero,
and so are several wrong ones. `python -m tinymnv1.gradcheck --ones` prints the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinymnv1.gradcheck.cases import Case, cases
from tinymnv1.gradcheck.mutants import MUTANTS, Mutant
from tinymnv1.gradcheck.numeric import TOLERANCE, central_difference, relative_error
from tinymnv1.gradcheck.spec import OpSpec
from tinymnv1.ops.window import Array


@dataclass(frozen=True)
class Comparison:
    """One mutant under both upstream gradients: the largest relative error of any gradient in any case."""

    mutant: Mutant
    ones: float
    random: float


def compare(specs: Sequence[OpSpec], seed: int = 0) -> list[Comparison]:
    """Check the mutants of `specs` that break only a backward as a textbook does: with ones, with random numbers."""
    rows = []
    for mutant in MUTANTS:
        spec = mutant.spec
        only_backward = spec.backward is not None and set(mutant.build()) == {spec.backward}
        stateful = mutant.cause == "accumulated instead of set"  # shows in a second call only, whatever dy is
        if spec in specs and only_backward and not stateful and spec.name != "dropout":
            chosen = [c for c in cases(spec, seed) if c.backward and c.tolerance == TOLERANCE]
            errors = [[_error(mutant, case, ones) for case in chosen] for ones in (True, False)]
            rows.append(Comparison(mutant, max(errors[0]), max(errors[1])))
    return rows


def _error(mutant: Mutant, case: Case, ones: bool) -> float:
    spec, functions = mutant.spec, mutant.functions()
    assert spec.backward is not None
    y, cache, *_ = functions[spec.forward](*case.inputs.values(), **case.options)
    dy = np.ones(y.shape) if ones else case.draw(y.shape)
    try:
        returned = functions[spec.backward](dy, cache)
    except ValueError:  # shapes that do not fit: any check notices
        return float("inf")
    gradients = returned if isinstance(returned, tuple) else (returned,)
    worst = 0.0
    for name, gradient in zip(spec.gradients, gradients, strict=True):

        def vary(array: Array, name: str = name[1:]) -> Any:
            return functions[spec.forward](*{**case.inputs, name: array}.values(), **case.options)[0]

        numeric = central_difference(vary, case.inputs[name[1:]], dy)
        if gradient.shape != numeric.value.shape:
            return float("inf")
        worst = max(worst, float(relative_error(gradient, numeric.value, numeric.noise).max()))
    return worst


def text(rows: Sequence[Comparison]) -> str:
    """The table."""

    def cell(error: float) -> str:
        told = f"{error:.1e}" if np.isfinite(error) else "bad shape"
        return f"{told} {'passes' if error <= TOLERANCE else 'fails'}"

    lines = [f"{'broken op':<32}{'dy = 1':<18}dy random"]
    lines += [f"{row.mutant.name:<32}{cell(row.ones):<18}{cell(row.random)}" for row in rows]
    fooled = sum(row.ones <= TOLERANCE for row in rows)
    caught = sum(row.random > TOLERANCE for row in rows)
    return "\n".join([*lines, "", f"ones let {fooled} of {len(rows)} pass, random numbers {len(rows) - caught}"])
