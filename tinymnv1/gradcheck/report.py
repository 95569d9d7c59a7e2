"""What the learner reads, and what Gradescope does."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinymnv1.gradcheck.cases import case_dtype
from tinymnv1.gradcheck.diagnosis import picture
from tinymnv1.gradcheck.expected import EXPECTED_BACKWARD, EXPECTED_FORWARD
from tinymnv1.gradcheck.findings import FAILED, MISSING, NOT_ATTEMPTED, PASSED, Finding, FunctionResult
from tinymnv1.gradcheck.numeric import relative_error
from tinymnv1.gradcheck.spec import FUNCTIONS

POINTS_FORWARD, POINTS_BACKWARD = 1.0, 2.0
"""Gradescope points: the backward is the harder half."""

_WORDS = {PASSED: "passed", FAILED: "FAILED", NOT_ATTEMPTED: "not attempted yet", MISSING: "not in the file"}


def _where(where: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, where)) + "]"


def expected_error(finding: Finding, function: str) -> str:
    """The error that rounding (forward) or the difference quotient (a gradient) leaves in a right result."""
    gradient = finding.argument.startswith("d") and function in FUNCTIONS
    return (EXPECTED_BACKWARD if gradient else EXPECTED_FORWARD)[str(case_dtype(finding.case))]


def summary_line(result: FunctionResult) -> str:
    """One line: the function, the verdict, the largest relative error in float64 of each array."""
    errors = []
    for argument in dict.fromkeys(f.argument for f in result.findings if f.kind == "value"):
        own = [f for f in result.findings if f.argument == argument and f.kind == "value"]
        double = [f for f in own if case_dtype(f.case) == np.float64] or own
        errors.append(f"{argument} {max(f.error for f in double):.1e}")
    told = f"{result.function:<24} {_WORDS[result.status]:<18}"
    return (told + ("  ".join(errors) if result.status in (PASSED, FAILED) else "")).rstrip()


def details(result: FunctionResult) -> str:
    """What is wrong with a function that failed: each wrong array with its picture, then the hint; and the notes."""
    lines = []
    shown: set[str] = set()
    count = len({id(f.case) for f in result.findings})
    for finding in result.failures:
        key = finding.argument if finding.kind == "value" else f"{finding.argument} {finding.kind}"
        if key in shown:
            continue
        shown.add(key)
        alike = [
            f for f in result.failures if (f.argument, f.kind == "value") == (finding.argument, finding.kind == "value")
        ]
        labels = list(dict.fromkeys(f.case.label for f in alike if f.case.label))
        if finding.problem:
            lines.append(finding.problem)
        else:
            lines += _values(finding, result.function)
        if labels and finding.kind not in ("process", "unreached", "reference"):
            lines.append(f"fails in {len(labels)} of {count} cases: {'; '.join(labels)}")
    if result.hint:
        lines.append(f"hint: {result.hint.cause}. {result.hint.text}")
    lines += [f"note: {note}" for note in result.notes]
    return "\n".join(lines)


def _values(finding: Finding, function: str) -> list[str]:
    assert finding.want is not None
    got = finding.got.astype(np.float64)
    error = relative_error(got, finding.want)
    wrong = error > finding.case.tolerance
    if not wrong.any():  # right but for what the noise allows: cannot be seen without it
        wrong = error == error.max()
    place = f" at {_where(finding.where)}" if finding.where else ""
    lines = [
        f"{finding.argument}: largest relative error {finding.error:.1e}{place}"
        f" (a right one has about {expected_error(finding, function)}), case: {finding.case.label}",
        f"  yours {float(got[finding.where]):.6g}, should be {float(finding.want[finding.where]):.6g};"
        f" {int(wrong.sum())} of {wrong.size} elements are wrong",
    ]
    drawn = picture(error, wrong)
    return lines + ["  " + line for line in drawn.splitlines()]


def text(results: Sequence[FunctionResult]) -> str:
    """The whole report."""
    parts = []
    absent = {r.op for r in results} - {r.op for r in results if r.status != MISSING}  # both halves
    for result in results:
        if result.op in absent:
            continue
        parts.append(summary_line(result))
        if result.failures or result.notes:
            parts += ["    " + line for line in details(result).splitlines()]
    if absent:
        parts.append("not in the file: " + ", ".join(dict.fromkeys(r.op for r in results if r.op in absent)))
    counts = {status: sum(r.status == status for r in results) for status in _WORDS}
    told = [f"{counts[PASSED]} passed", f"{counts[FAILED]} failed"]
    told += [f"{counts[s]} {_WORDS[s]}" for s in (NOT_ATTEMPTED, MISSING) if counts[s]]
    return "\n".join([*parts, "", ", ".join(told)])


def points(result: FunctionResult) -> float:
    """What a function is worth."""
    return POINTS_BACKWARD if result.function.endswith("_backward") else POINTS_FORWARD


def gradescope(results: Sequence[FunctionResult], seconds: float) -> bytes:
    """The content of Gradescope's results.json (https://gradescope-autograders.readthedocs.io, "Output format").

    results: one entry each, missing functions among them, with 0 points.  seconds: how long the grading took.
    """
    tests: list[dict[str, Any]] = []
    for number, result in enumerate(results, start=1):
        passed = result.status == PASSED
        tests.append(
            {
                "name": result.function,
                "number": str(number),
                "score": points(result) if passed else 0.0,
                "max_score": points(result),
                "status": "passed" if passed else "failed",
                "output": f"{summary_line(result)}\n{details(result)}".strip(),
                "output_format": "text",
                "tags": [result.lesson],
                "visibility": "visible",
            }
        )
    return _json({"score": sum(test["score"] for test in tests), "execution_time": round(seconds), "tests": tests})


def gradescope_refused(message: str) -> bytes:
    """results.json for a file that cannot be graded at all: 0 points, and why."""
    return _json({"score": 0.0, "output": message, "output_format": "text", "visibility": "visible", "tests": []})


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
