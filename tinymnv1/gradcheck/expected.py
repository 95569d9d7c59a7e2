"""The right answers: the reference's forward and its numeric gradient. They never leave the grader's process."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from tinymnv1 import ops
from tinymnv1.gradcheck.cases import Case, case_dtype, cases
from tinymnv1.gradcheck.numeric import Difference, central_difference
from tinymnv1.gradcheck.spec import OpSpec
from tinymnv1.ops.window import Array

# What a learner is told. No exact right answer comes out: the first column is only rounding, the second is the
# difference quotient's own error (see numeric.py).
EXPECTED_FORWARD = {"float64": "1e-15", "float32": "1e-7"}
EXPECTED_BACKWARD = {"float64": "1e-10", "float32": "1e-6"}


@dataclass(frozen=True)
class Expected:
    """The right results of one case.

    outputs: name -> what forward should return, float64.  dy: the upstream gradient, in the case's own dtype, or None
    where the op has no backward or the case leaves it out.  gradients: name ("dx") -> numeric gradient.
    """

    outputs: dict[str, Array]
    dy: Array | None = None
    gradients: dict[str, Difference] = field(default_factory=dict)


def in_float64(case: Case) -> dict[str, Any]:
    """The inputs with every float32 array widened."""
    return {
        name: value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype == np.float32 else value
        for name, value in case.inputs.items()
    }


def expect(spec: OpSpec, case: Case, y: Array | None = None) -> Expected:
    """The right results of a case. y: what the learner's own dropout returned, which decides the mask."""
    inputs = in_float64(case)
    if spec.name == "dropout":
        return _expect_dropout(case, inputs, y)
    forward = getattr(ops, spec.forward)
    returned = forward(*inputs.values(), **case.options)
    parts = (returned,) if len(spec.returns) == 1 else returned
    outputs = {name: np.asarray(v) for name, v in zip(spec.returns, parts, strict=True) if name in spec.outputs}
    if not spec.gradients or not case.backward:
        return Expected(outputs)
    first = spec.returns[0]
    if case.on_kink:
        upstream = case.draw(outputs[first].shape, case_dtype(case))
        dx = getattr(ops, str(spec.backward))(upstream, returned[1])
        return Expected(outputs, upstream, {spec.gradients[0]: Difference(dx, 0.0)})
    # A loss is the end of the chain: its upstream gradient is 1 by definition.
    dy = case.draw(outputs[first].shape, case_dtype(case)) if spec.backward else None

    def value(**changed: Array) -> Any:
        return forward(*{**inputs, **changed}.values(), **case.options)[0]

    gradients = _differences(spec, inputs, value, 1.0 if dy is None else dy.astype(np.float64))
    if not spec.backward:  # the op returns its gradient itself: judged by the numeric one
        outputs = {name: array for name, array in outputs.items() if name not in gradients}
    return Expected(outputs, dy, gradients)


def _differences(spec: OpSpec, inputs: dict[str, Any], value: Callable[..., Any], dy: Any) -> dict[str, Difference]:
    found = {}
    for gradient in spec.gradients:

        def vary(array: Array, name: str = gradient[1:]) -> Any:
            return value(**{name: array})

        found[gradient] = central_difference(vary, inputs[gradient[1:]], dy)
    return found


def _expect_dropout(case: Case, inputs: dict[str, Any], y: Array | None) -> Expected:
    """Dropout may draw its mask in any way, so the learner's own zeros are taken as the mask and all else follows."""
    x, p = inputs["x"], inputs["p"]
    dy = case.draw(x.shape, case_dtype(case)) if case.backward else None
    if y is None or y.shape != x.shape or y.dtype.kind != "f":
        return Expected({"y": x}, dy)
    scale = np.where(y == 0, 0.0, 1 / (1 - p))
    if dy is None:
        return Expected({"y": x * scale})
    return Expected({"y": x * scale}, dy, {"dx": central_difference(lambda a: a * scale, x, dy.astype(np.float64))})


@lru_cache(maxsize=1024)
def expected_cases(spec: OpSpec, seed: int) -> tuple[tuple[Case, Expected], ...]:
    """Every case of an op with its right results. Kept, since many implementations are graded on the same ones."""
    return tuple((case, expect(spec, case)) for case in cases(spec, seed))
