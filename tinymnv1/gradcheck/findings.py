"""What grading produces: a finding for each array that was compared, a result for each function."""

import math
from dataclasses import dataclass, field
from typing import Any

from tinymnv1.gradcheck.cases import Case
from tinymnv1.ops.window import Array


@dataclass(frozen=True)
class Hint:
    """The likely cause. cause: a few words, a key of `diagnosis.causes.ADVICE`.  text: what to tell the learner."""

    cause: str
    text: str


@dataclass(frozen=True)
class Finding:
    """One array of one case beside what it should be; or, with `problem`, why there was nothing to compare.

    argument: "y", "dx", ...  error: the largest relative error, at index `where`.  got, want: the two arrays.
    kind: "value", or what sort of problem: "shape", "dtype", "exception", "state", "mutated", "alias", ...
    """

    case: Case
    argument: str
    error: float
    where: tuple[int, ...] = ()
    got: Any = None
    want: Array | None = None
    problem: str | None = None
    kind: str = "value"

    @property
    def passed(self) -> bool:
        """Whether the array is right."""
        return self.problem is None and self.error <= self.case.tolerance


PASSED, FAILED, NOT_ATTEMPTED, MISSING = "passed", "failed", "not attempted", "missing"


@dataclass(frozen=True)
class FunctionResult:
    """The verdict on one function.

    status: PASSED, FAILED, NOT_ATTEMPTED (its body raises NotImplementedError) or MISSING (the file does not have it).
    findings: everything that was compared.  hint: the likely cause of the failures, if one was recognised.
    notes: remarks that cost nothing, such as that the function prints.
    """

    function: str
    op: str
    lesson: str
    status: str
    findings: tuple[Finding, ...] = ()
    hint: Hint | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings that are wrong."""
        return tuple(finding for finding in self.findings if not finding.passed)

    def worst(self, argument: str) -> Finding | None:
        """The finding on `argument` that uses up most of its tolerance."""
        own = [finding for finding in self.findings if finding.argument == argument]
        return max(own, key=lambda f: math.inf if f.problem else f.error / f.case.tolerance, default=None)
