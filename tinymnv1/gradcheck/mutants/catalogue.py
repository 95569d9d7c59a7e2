"""How a mutant is written down: a small function that returns the broken versions of an op's functions."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from tinymnv1 import ops
from tinymnv1.gradcheck.spec import FUNCTIONS, SPECS, OpSpec

Functions = dict[str, Callable[..., Any]]


@dataclass(frozen=True)
class Mutant:
    """One plausible mistake.

    name: of the function that makes it.  op: the op that it breaks.  cause: a key of `diagnosis.causes.ADVICE`.
    mistake: one sentence, what was done wrong.  build: makes the broken functions, fresh (some of them keep state).
    """

    name: str
    op: str
    cause: str
    mistake: str
    build: Callable[[], Functions]

    @property
    def spec(self) -> OpSpec:
        """The row of the op that it breaks."""
        return next(spec for spec in SPECS if spec.name == self.op)

    def functions(self) -> Functions:
        """The functions of the graded ops, with this mutant's own in the place of the right ones."""
        return {**right_functions(), **self.build()}

    def ops(self) -> SimpleNamespace:
        """The same as a namespace, to be used like the module `tinymnv1.ops`."""
        return SimpleNamespace(**self.functions())


MUTANTS: list[Mutant] = []
"""All of them, in the order in which their files are imported."""


def right_functions() -> Functions:
    """The functions of `tinymnv1.ops` that are graded."""
    return {name: getattr(ops, name) for name in FUNCTIONS}


def mutant(op: str, cause: str) -> Callable[[Callable[[], Functions]], Callable[[], Functions]]:
    """Enter a function into the catalogue. Its docstring is the mistake, in one sentence."""

    def enter(build: Callable[[], Functions]) -> Callable[[], Functions]:
        MUTANTS.append(Mutant(build.__name__, op, cause, (build.__doc__ or "").strip(), build))
        return build

    return enter
