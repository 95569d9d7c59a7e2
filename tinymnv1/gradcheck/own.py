"""The project's check of itself: ops (NumPy, naive, Numba), layers and the whole model, as one table."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinymnv1 import layers, ops
from tinymnv1.gradcheck.cases import Case, case_dtype, cases, off_kinks
from tinymnv1.gradcheck.findings import Finding
from tinymnv1.gradcheck.golden import TOLERANCE as GOLDEN_TOLERANCE
from tinymnv1.gradcheck.golden import golden_cases
from tinymnv1.gradcheck.grade import grade_functions
from tinymnv1.gradcheck.numeric import (
    TOLERANCE,
    central_difference,
    check_directional,
    largest,
    relative_error,
)
from tinymnv1.gradcheck.report import expected_error
from tinymnv1.gradcheck.spec import OpSpec
from tinymnv1.model import MobileNetV1
from tinymnv1.ops.window import Array

NUMBA_TOLERANCE = 2e-5
MODEL_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Row:
    """One line of the table.

    group: what is checked ("NumPy", "Numba", ...).  name: the function or layer.  argument: "y", "dx", ...
    error: the largest relative error, found at `where`.  expected: what a right one has.  passed: the verdict.
    """

    group: str
    name: str
    argument: str
    error: float
    where: str
    expected: str
    passed: bool


def _row(group: str, function: str, finding: Finding, expected: str) -> Row:
    label = finding.case.label.removeprefix("PyTorch: ")
    where = f"{list(finding.where)} of {label}" if finding.where and finding.error > 0 else ""
    return Row(group, function, finding.argument, finding.error, finding.problem or where, expected, finding.passed)


def numpy_ops(seed: int, specs: Sequence[OpSpec]) -> Iterator[Row]:
    """Each backward against the numeric gradient of its own forward; forward and backward against PyTorch's results."""
    for spec in specs:
        for result in grade_functions(spec, vars(ops), seed):
            for argument in dict.fromkeys(f.argument for f in result.findings):
                own = [f for f in result.findings if f.argument == argument and case_dtype(f.case) == np.float64]
                forward = result.function == spec.forward and argument not in spec.gradients
                if own and (not forward or spec.name == "dropout"):  # forward is not compared with itself
                    worst = max(own, key=lambda f: f.error)
                    yield _row("NumPy", result.function, worst, expected_error(worst, result.function))
        if golden_cases(spec):
            only_golden = [f for r in grade_functions(spec, vars(ops), seed, golden=True) for f in r.findings]
            stored = [f for f in only_golden if f.case.tolerance == GOLDEN_TOLERANCE]
            for argument in dict.fromkeys(f.argument for f in stored):
                worst = max((f for f in stored if f.argument == argument), key=lambda f: f.error)
                yield _row("NumPy = PyTorch", spec.name, worst, "1e-15")


def naive_ops(seed: int, specs: Sequence[OpSpec]) -> Iterator[Row]:
    """The nested loops, graded like a learner's."""
    for spec in (spec for spec in specs if hasattr(ops, f"{spec.forward}_naive")):
        loops = {name: getattr(ops, f"{name}_naive") for name in spec.functions}
        for result in grade_functions(spec, loops, seed):
            for argument in dict.fromkeys(f.argument for f in result.findings):
                double = [f for f in result.findings if f.argument == argument and case_dtype(f.case) == np.float64]
                worst = max(double, key=lambda f: f.error)
                yield _row("naive", f"{result.function}_naive", worst, expected_error(worst, result.function))


def numba_ops(seed: int, specs: Sequence[OpSpec]) -> Iterator[Row]:
    """The float32 kernels against the NumPy ops, which compute in float64 from the same float32 numbers."""
    from tinymnv1 import kernels  # numba takes a second to load: only here

    for spec in specs:
        if all(getattr(kernels, name) is getattr(ops, name) for name in spec.functions):
            continue  # re-exported: checked above
        worst: dict[tuple[str, str], Row] = {}
        for case in cases(spec, seed):
            if case.tolerance > 1e-3:  # the case for variance with a far mean is loose for its own reason
                continue
            for function, argument, got, want in _both(spec, case, kernels):
                error, where = largest(relative_error(got.astype(np.float64), want))
                error = error if got.dtype == np.float32 and got.shape == want.shape else float("inf")
                place = f"{list(where)} of {case.label}" if error > 0 else ""
                row = Row("Numba", function, argument, error, place, "1e-7", error <= NUMBA_TOLERANCE)
                if (function, argument) not in worst or error > worst[function, argument].error:
                    worst[function, argument] = row
        yield from worst.values()


def _both(spec: OpSpec, case: Case, kernels: Any) -> Iterator[tuple[str, str, Array, Array]]:
    """(function, argument, the kernel's result, the NumPy op's in float64) of one case."""

    def cast(value: Any, dtype: Any) -> Any:
        return value.astype(np.float32).astype(dtype) if isinstance(value, np.ndarray) else value

    sides = []
    for module, dtype in ((kernels, np.float32), (ops, np.float64)):
        inputs = [cast(value, dtype) for value in case.inputs.values()]
        returned = getattr(module, spec.forward)(*inputs, **case.options)
        parts = returned if len(spec.returns) > 1 else (returned,)
        named = dict(zip(spec.returns, parts, strict=True))
        results = {(spec.forward, name): named[name] for name in spec.outputs}
        if spec.backward:
            dy = cast(case.draw(named["y"].shape), dtype)
            gradients = getattr(module, spec.backward)(dy, named["cache"])
            gradients = gradients if isinstance(gradients, tuple) else (gradients,)
            results |= {(spec.backward, k): g for k, g in zip(spec.gradients, gradients, strict=True)}
        sides.append(results)
    for key, got in sides[0].items():
        yield *key, got, sides[1][key]


def _layers(rng: np.random.Generator) -> Iterator[tuple[Callable[[], layers.Layer], Array]]:
    """(a function that builds the layer, an input) of every layer. Built anew for each call: batch norm and dropout
    move on with every forward."""
    n = rng.normal
    images = n(size=(2, 5, 4, 3))
    conv, depthwise, pointwise, linear = n(size=(3, 3, 3, 2)), n(size=(3, 3, 3)), n(size=(3, 4)), n(size=(3, 4))
    yield lambda: layers.Conv2d(ops, conv, 2, "tf"), images
    yield lambda: layers.Depthwise(ops, depthwise, 2, "symmetric"), images
    yield lambda: layers.Pointwise(ops, pointwise), images
    yield lambda: layers.BatchNorm(ops, 3, dtype=np.float64), images
    yield lambda: layers.Activation(ops, "relu6"), off_kinks(4 * images, (0, 6))
    yield lambda: layers.GlobalAvgPool(ops), images
    yield lambda: layers.Dropout(ops, 0.3, np.random.default_rng(1)), images
    yield lambda: layers.Linear(ops, linear), n(size=(4, 3))


def all_layers(seed: int) -> Iterator[Row]:
    """Each layer's dx and the grad of each of its parameters against numeric gradients."""
    rng = np.random.default_rng(seed)
    for build, x in _layers(rng):
        layer = build()
        values = {name: rng.normal(size=p.data.shape) for name, p in layer.named_parameters()}
        for name, p in layer.named_parameters():
            p.data[...] = values[name]
        dy = rng.normal(size=layer.forward(x, train=True).shape)
        gradients = {"x": layer.backward(dy)} | {name: p.grad for name, p in layer.named_parameters()}

        def forward(build: Callable[[], layers.Layer] = build, **inputs: Array) -> Array:
            fresh = build()
            for name, p in fresh.named_parameters():
                p.data[...] = inputs[name]
            return fresh.forward(inputs["x"], train=True)

        inputs = {"x": x} | values
        for name, gradient in gradients.items():

            def vary(array: Array, name: str = name, inputs: Any = inputs, forward: Any = forward) -> Array:
                return forward(**{**inputs, name: array})

            numeric = central_difference(vary, inputs[name], dy)
            error, where = largest(relative_error(gradient, numeric.value, numeric.noise))
            yield Row("layer", type(layer).__name__, f"d{name}", error, str(list(where)), "1e-10", error <= TOLERANCE)


def whole_model(seed: int) -> Iterator[Row]:
    """The gradient of the loss along random directions through all parameters and the images, in float64."""
    for padding, stride in (("symmetric", 1), ("tf", 2)):
        rng = np.random.default_rng(seed)
        model = MobileNetV1(10, 0.25, stem_stride=stride, padding=padding, backend="numpy", dtype=np.float64, rng=rng)
        x = rng.normal(size=(4, 32, 32, 3))
        labels = rng.integers(0, 10, 4)
        arrays = {name: p.data for name, p in model.parameters()}
        for name, array in arrays.items():  # off their initial ones and zeros, where much would cancel
            array += (0.1 if array.ndim == 1 else 0.0) * rng.normal(size=array.shape)
            if name == "classifier.weight":
                array *= 30

        def loss(model: MobileNetV1 = model, x: Array = x, labels: Array = labels) -> float:
            return ops.softmax_cross_entropy(model.forward(x, train=True), labels, 0.1)[0]

        _, dlogits = ops.softmax_cross_entropy(model.forward(x, train=True), labels, 0.1)
        dx = model.backward(dlogits)
        parameters = {"images": x} | arrays
        gradients = {"images": dx} | {name: p.grad for name, p in model.parameters()}
        name = f"MobileNetV1 {padding}"
        for part, chosen in (
            ("dimages", ["images"]),
            ("stem", [k for k in arrays if k.startswith("stem")]),
            ("all", list(parameters)),
        ):
            check = check_directional(
                loss,
                {k: parameters[k] for k in chosen},
                {k: gradients[k] for k in chosen},
                directions=3,
                rng=seed,
                tolerance=MODEL_TOLERANCE,
            )
            worst = max(check.arguments, key=lambda a: a.error)
            yield Row("model", name, part, check.error, worst.argument, "1e-7", check.passed)


def sections(seed: int, specs: Sequence[OpSpec], whole: bool) -> list[Iterator[Row]]:
    """The parts of the check, each an iterator over its rows. whole: layers and model as well."""
    parts = [numpy_ops(seed, specs), naive_ops(seed, specs), numba_ops(seed, specs)]
    return [*parts, all_layers(seed), whole_model(seed)] if whole else parts


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    cells = [("", "op", "argument", "largest relative error", "where", "expected", "verdict")]
    for row in rows:
        verdict = "ok" if row.passed else "WRONG"
        cells.append(
            (row.group, row.name, row.argument, f"{row.error:.1e}", row.where, f"about {row.expected}", verdict)
        )
    widths = [max(len(line[k]) for line in cells) for k in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in cells]
    wrong = sum(not row.passed for row in rows)
    return "\n".join([*lines, "", f"{len(rows) - wrong} of {len(rows)} ok"])
