"""From what a learner's functions did (a `worker.Trace` a case) to a verdict on each of them."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tinymnv1.gradcheck.cases import Case, case_dtype
from tinymnv1.gradcheck.diagnosis import ADVICE, diagnose, hint
from tinymnv1.gradcheck.expected import Expected, expect
from tinymnv1.gradcheck.findings import FAILED, NOT_ATTEMPTED, PASSED, Finding, FunctionResult
from tinymnv1.gradcheck.numeric import STEP, largest, relative_error
from tinymnv1.gradcheck.spec import OpSpec
from tinymnv1.gradcheck.worker import Call, Trace
from tinymnv1.ops.window import Array


def probes(spec: OpSpec, case: Case) -> list[dict[str, Any]]:
    """The further forward calls that a case needs.

    The first repeats the call, to see that it gives the same again. Then two for each gradient, a step forth and back
    along one random direction: they tell whether a backward is the gradient of the learner's own forward. For dropout
    a last one with another generator.
    """
    calls: list[dict[str, Any]] = [{}]
    if case.backward and case_dtype(case) == np.float64:
        for name in (gradient[1:] for gradient in spec.gradients):
            step = STEP * direction(case, name)
            calls += [{name: case.inputs[name] + step}, {name: case.inputs[name] - step}]
    if case.rng_seed is not None:
        calls.append({"rng_seed": case.rng_seed + 1})
    return calls


def direction(case: Case, name: str) -> Array:
    """The direction in which `probes` moves the input `name`: no element by more than 1, so that no kink is crossed."""
    rng = np.random.default_rng([case.seed, 2, len(name), ord(name[0])])
    return rng.uniform(-1, 1, case.inputs[name].shape)


def judge(spec: OpSpec, graded: Sequence[tuple[Case, Expected, Trace]]) -> list[FunctionResult]:
    """The verdict on an op's functions from its cases, in order; a case that was never reached is simply not there."""
    forward: list[Finding] = []
    backward: list[Finding] = []
    unreached: list[Finding] = []  # cases in which backward could not be called
    follows = True  # does backward, where it fails, at least fit the learner's own forward?
    ys: dict[int, Array | None] = {}
    dys: dict[int, Array | None] = {}
    for case, right, trace in graded:
        y = trace.forward.values.get(spec.returns[0])
        y = y if isinstance(y, np.ndarray) else None
        if spec.name == "dropout":  # what is right depends on the learner's own mask
            right = expect(spec, case, y)
        ys[id(case)], dys[id(case)] = y, right.dy
        outputs = dict(right.outputs)
        if spec.backward is None:
            outputs.update((name, d.value) for name, d in right.gradients.items())
        forward += _call_findings(case, trace.forward, outputs, right)
        forward += _repeat_findings(spec, case, trace)
        if trace.backward is None:
            if spec.backward is not None and case.backward:
                unreached.append(_unreached(case, f"{spec.forward} did not return"))
            continue
        gradients = {name: d.value for name, d in right.gradients.items()}
        if case.backward and not gradients:  # dropout: what is right depends on the learner's y
            unreached.append(_unreached(case, f"{spec.forward}'s y is not of x's shape and dtype"))
        found = _call_findings(case, trace.backward, gradients, right)
        if any(not f.passed for f in found) and right.dy is not None:
            follows = follows and _follows(spec, case, trace, right.dy)
        backward += found + _again_findings(case, trace)
    results = [_result(spec, spec.forward, forward, graded, "forward", dys, ys)]
    if spec.backward is not None:
        called = any(trace.backward is not None for _, _, trace in graded)  # else _result says so, once
        found = backward + unreached if called else []
        result = _result(spec, spec.backward, found, graded, "backward", dys, ys)
        if result.status == FAILED and results[0].status == FAILED and backward and follows:
            values = [f for f in result.failures if f.kind == "value"]
            if values:
                result = replace(result, hint=hint("follows the wrong forward", values[0].argument, spec.backward))
        results.append(result)
    return results


def _unreached(case: Case, reason: str) -> Finding:
    """That backward's gradients could not be judged in a case."""
    return Finding(case, "", math.inf, problem=f"not checked in the case {case.label!r}: {reason}", kind="unreached")


def _result(
    spec: OpSpec,
    function: str,
    findings: list[Finding],
    graded: Sequence[tuple[Case, Expected, Trace]],
    stage: str,
    dys: dict[int, Array | None],
    ys: dict[int, Array | None],
) -> FunctionResult:
    calls = [call for _, _, trace in graded if (call := getattr(trace, stage)) is not None]
    if any(call.kind == "not attempted" for call in calls):
        return FunctionResult(function, spec.name, spec.lesson, NOT_ATTEMPTED)
    if not findings:
        first = graded[0][0] if graded else Case("", {})
        reason = f"could not be called, because {spec.forward} did not return"
        if graded and graded[0][2].forward.kind == "not attempted":
            reason = f"cannot be checked before {spec.forward} is there"
        findings = [Finding(first, function, math.inf, problem=reason, kind="unreached")]
    failures = [finding for finding in findings if not finding.passed]
    if not failures:
        return FunctionResult(function, spec.name, spec.lesson, PASSED, tuple(findings))
    told = diagnose(spec.name, function, failures, dys, ys)
    named = [finding for finding in failures if finding.kind in ADVICE]  # found by its manners, not by its values
    if named and (told is None or stage == "forward"):
        told = hint(named[0].kind, named[0].argument, function)
    return FunctionResult(function, spec.name, spec.lesson, FAILED, tuple(findings), told)


def _call_findings(case: Case, call: Call, wanted: dict[str, Array], right: Expected) -> list[Finding]:
    """Compare what a call returned with what it should have, and look at its manners."""
    if call.problem is not None:
        where = f"line {call.line}: " if call.line else ""
        text = f"raised {call.problem}" if call.kind == "exception" else call.problem
        return [Finding(case, "", math.inf, problem=where + text, kind=call.kind)]
    findings = [_compare(case, name, call.values.get(name), want, right) for name, want in wanted.items()]
    findings += [
        Finding(case, name, math.inf, problem=f"the call writes to its input {name}: work on a copy", kind="mutated")
        for name in call.mutated
    ]
    findings += [
        Finding(case, a, math.inf, problem=f"{a} shares memory with {b}: return a new array", kind="alias")
        for a, b in call.aliases
    ]
    return findings


def _compare(case: Case, name: str, got: Any, want: Array, right: Expected) -> Finding:
    if not isinstance(got, np.ndarray):
        return Finding(case, name, math.inf, problem=f"{name} is {got}, not an array", kind="type")
    if got.shape != want.shape:
        text = f"{name} has shape {got.shape}, it should be {want.shape}"
        return Finding(case, name, math.inf, (), got, want, text, "shape")
    dtype = case_dtype(case)
    if got.dtype != dtype and want.ndim > 0:  # the loss is a float, of whatever sort
        text = f"{name} is {got.dtype}, it should be {dtype} as x is"
        return Finding(case, name, math.inf, (), got, want, text, "dtype")
    noise = right.gradients[name].noise if name in right.gradients else 0.0
    error, where = largest(relative_error(got.astype(np.float64), want, noise, case.tolerance))
    return Finding(case, name, error, where, got, want)


def _same(a: Call, b: Call) -> bool:
    return a.values.keys() == b.values.keys() and all(
        np.allclose(v, b.values[k], rtol=1e-5, atol=1e-12, equal_nan=True)
        if isinstance(v, np.ndarray) and isinstance(b.values[k], np.ndarray) and v.shape == b.values[k].shape
        else isinstance(v, str) and isinstance(b.values[k], str) and v == b.values[k]
        for k, v in a.values.items()
    )


def _repeat_findings(spec: OpSpec, case: Case, trace: Trace) -> list[Finding]:
    """Forward again on the same inputs, and dropout's own rules."""
    if trace.forward.problem is not None or not trace.probes:
        return []
    found = []
    name = spec.returns[0]

    def bad(kind: str, text: str) -> None:
        found.append(Finding(case, name, math.inf, problem=text, kind=kind))

    again = trace.probes[0]
    if again.problem is None and not _same(trace.forward, again):
        if spec.name == "dropout":
            bad("rng ignored", "two calls with equal generators drop different values")
        else:
            bad("state kept between calls", "a second call with the same inputs gives another result")
    y = trace.forward.values.get(name)
    if spec.name == "dropout" and isinstance(y, np.ndarray) and y.shape == case.inputs["x"].shape:
        p, count = case.inputs["p"], y.size
        share = float((y == 0).mean())
        if abs(share - p) > 5 * math.sqrt(p * (1 - p) / count) + 1e-12:
            swapped = abs(share - (1 - p)) < 5 * math.sqrt(p * (1 - p) / count) + 1e-12
            kind = "p is the chance to keep" if swapped else "share"
            bad(kind, f"{share:.0%} of the values are zero where p is {p:.0%}")
        dropped = y == 0
        if min(y.shape) > 20 and any(dropped.all(axis=axis).any() for axis in range(y.ndim)):  # by chance: p ** 40
            bad("share", "whole rows or columns are zero: each value is dropped by itself")
        other = trace.probes[-1]
        if p > 0 and other.problem is None and _same(trace.forward, other):
            bad("rng ignored", "another generator drops the same values")
    return found


def _again_findings(case: Case, trace: Trace) -> list[Finding]:
    """Backward again with the same dy and cache must give the same: nothing accumulates, nothing is used up.

    In between, forward was called on other inputs: nothing may be kept outside the cache.
    """
    first, second = trace.backward, trace.again
    if first is None or second is None or first.problem is not None or _same(first, second):
        return []
    if second.problem is not None:
        text = f"a second call with the same arguments raised {second.problem}"
        return [Finding(case, "", math.inf, problem=text, kind="state kept between calls")]
    for name, a in first.values.items():
        b = second.values.get(name)
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.shape == b.shape and not np.allclose(a, b):
            grown = np.allclose(b, 2 * a, rtol=1e-4)
            kind = "accumulated instead of set" if grown else "state kept between calls"
            text = f"{name} is another when backward is called again with the same arguments"
            return [Finding(case, name, math.inf, problem=text, kind=kind)]
    return []


def _follows(spec: OpSpec, case: Case, trace: Trace, dy: Array) -> bool:
    """Whether the learner's gradients fit the learner's own forward along the directions of `probes`."""
    if trace.backward is None or case_dtype(case) != np.float64:
        return True
    for k, gradient in enumerate(spec.gradients):
        calls = trace.probes[1 + 2 * k : 3 + 2 * k]
        ys: list[Any] = [call.values.get(spec.returns[0]) for call in calls]
        got = trace.backward.values.get(gradient)
        if len(ys) < 2 or not all(
            isinstance(y, np.ndarray) and y.dtype.kind == "f" and y.shape == dy.shape for y in ys
        ):
            return False
        v = direction(case, gradient[1:])
        if not isinstance(got, np.ndarray) or got.shape != v.shape:
            return False
        numeric = float(((ys[0] - ys[1]) * dy).sum()) / (2 * STEP)
        typical = math.sqrt(float((got * got).sum()) / 3)
        if not abs(numeric - float((got * v).sum())) <= 1e-5 * max(typical, 1e-8):
            return False
    return True
