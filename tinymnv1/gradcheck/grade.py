"""Grading: a learner's file in processes of its own, or functions that are trusted right here."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tinymnv1.errors import ConfigError
from tinymnv1.gradcheck import worker
from tinymnv1.gradcheck.cases import Case
from tinymnv1.gradcheck.expected import Expected, expected_cases
from tinymnv1.gradcheck.findings import FAILED, MISSING, Finding, FunctionResult
from tinymnv1.gradcheck.golden import golden_cases
from tinymnv1.gradcheck.isolation import Ended, run_isolated
from tinymnv1.gradcheck.judge import judge, probes
from tinymnv1.gradcheck.spec import FUNCTIONS, OpSpec

SECONDS = 10.0
"""The time limit of one op, all its cases together: loops in plain Python need about one."""

INFINITE = float("inf")


def wanted_cases(spec: OpSpec, seed: int, golden: bool) -> tuple[tuple[Case, Expected], ...]:
    """The cases that an op is graded on: the random ones, and PyTorch's if `golden`."""
    return expected_cases(spec, seed) + (golden_cases(spec) if golden else ())


def grade_functions(
    spec: OpSpec, functions: Mapping[str, Callable[..., Any]], seed: int = 0, golden: bool = False
) -> list[FunctionResult]:
    """Grade one op in this process: for code that is trusted, such as the project's own.

    spec: the op.  functions: name -> function, with `spec.forward` and `spec.backward` among them.
    seed: draws the inputs.  golden: also compare with the golden files.
    Returns a result for each function of the op.
    """
    graded = []
    forward = functions[spec.forward]
    backward = functions[spec.backward] if spec.backward else None
    for case, right in wanted_cases(spec, seed, golden):
        trace = worker.run_case(
            (forward, backward),
            (list(spec.returns), list(spec.gradients)),
            case.inputs,
            case.options,
            right.dy,
            case.rng_seed,
            probes(spec, case),
        )
        graded.append((case, right, trace))
    return judge(spec, graded)


def read_functions(path: Path, seconds: float = SECONDS) -> list[str]:
    """The names of the known functions that a learner's file defines, found by importing it in a process of its own.

    Raises ConfigError if there is no such file, if importing it fails, or if it defines none.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file; --stub {path} writes one to start from")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ended = _run(folder, path, None, [], seconds)
        if (folder / "import.json").exists():
            told = json.loads((folder / "import.json").read_text(encoding="utf-8"))
            line = f", line {told['line']}" if told["line"] else ""
            raise ConfigError(f"{path}{line}: cannot be imported: {told['problem']}")
        if ended.timed_out:
            raise ConfigError(f"{path}: still being imported after {seconds:g} s; look for a loop at its top level")
        if not (folder / "functions.json").exists():
            raise ConfigError(f"{path}: its import ended the process {ended.how}")
        names: list[str] = json.loads((folder / "functions.json").read_text(encoding="utf-8"))
    if not names:
        raise ConfigError(f"{path}: it defines none of the functions, such as depthwise_forward; see --stub")
    return names


def grade_file(
    path: Path,
    specs: Sequence[OpSpec],
    seed: int = 0,
    seconds: float = SECONDS,
    golden: bool = False,
    done: Callable[[OpSpec], Any] = lambda spec: None,
) -> list[FunctionResult]:
    """Grade a learner's file, each op in a process of its own.

    path: the file.  specs: the ops to grade.  seed: draws the inputs.  seconds: time limit of one op.
    golden: also compare with the golden files.  done: called when an op is through, for a progress bar.
    Returns a result for every function of every spec, in order. Raises ConfigError as `read_functions` does.
    """
    path = path.resolve()
    names = read_functions(path, seconds)

    def grade(spec: OpSpec) -> list[FunctionResult]:
        results = _grade_op(path, spec, names, wanted_cases(spec, seed, golden), seconds)
        done(spec)
        return results

    with ThreadPoolExecutor(max_workers=max(1, min(4, os.cpu_count() or 1))) as pool:
        return [result for results in pool.map(grade, specs) for result in results]


def _grade_op(
    path: Path, spec: OpSpec, names: Sequence[str], wanted: Sequence[tuple[Case, Expected]], seconds: float
) -> list[FunctionResult]:
    missing = [FunctionResult(name, spec.name, spec.lesson, MISSING) for name in spec.functions if name not in names]
    if spec.forward not in names:
        told = Finding(Case("", {}), "", INFINITE, problem=f"needs {spec.forward}, which is missing", kind="unreached")
        orphan = [
            FunctionResult(name, spec.name, spec.lesson, FAILED, (told,)) for name in spec.functions if name in names
        ]
        return missing + orphan
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = spec if not missing else replace(spec, backward=None, gradients=())
        ended = _run(folder, path, own, wanted, seconds)
        graded, broken = _read_traces(folder, wanted)
        results = judge(spec, graded) if graded else []
        results = results or [FunctionResult(name, spec.name, spec.lesson, FAILED) for name in spec.functions]
        stage = _text(folder / "stage")
        problem = "its results could not be read" if broken else None
        if stage != "done":
            k = min(int(stage), len(wanted) - 1) if stage.isdecimal() else 0
            during = f"in the case {wanted[k][0].label!r}" if stage.isdecimal() else "while the file was imported"
            what = f"still running after {seconds:g} s" if ended.timed_out else f"ended the process {ended.how}"
            problem = f"{what}, {during}"
            results = _blame(results, spec, wanted[k][0], problem, _text(folder / "function"))
        elif problem:
            results = _blame(results, spec, wanted[0][0], problem, "")
        if (folder / "reference").exists():
            text = "it uses the reference (tinymnv1) itself, which is what your own code is compared with"
            results = [_add(result, wanted[0][0], text, "reference") for result in results]
    if ended.printed.strip():
        note = f"prints; the first line: {ended.printed.strip().splitlines()[0][:80]}"
        results = [replace(result, notes=(*result.notes, note)) for result in results]
    present = [result for result in results if result.function in names]
    return present + missing


def _blame(
    results: list[FunctionResult], spec: OpSpec, case: Case, problem: str, function: str
) -> list[FunctionResult]:
    """Add a crash or time-out to the function that was running (to both, if that is not known)."""
    return [
        _add(result, case, problem, "process")
        if function in ("", result.function)
        else _add(result, case, f"not checked to the end: {function} {problem}", "unreached")
        for result in results
    ]


def _add(result: FunctionResult, case: Case, problem: str, kind: str) -> FunctionResult:
    finding = Finding(case, "", INFINITE, problem=problem, kind=kind)
    return replace(result, status=FAILED, findings=(finding, *result.findings))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _read_traces(
    folder: Path, wanted: Sequence[tuple[Case, Expected]]
) -> tuple[list[tuple[Case, Expected, worker.Trace]], bool]:
    """The traces that were written, and whether one of them was unreadable (a learner's code may write there, too)."""
    graded = []
    for k, (case, right) in enumerate(wanted):
        file = folder / f"{k}.npz"
        if not file.exists():
            break
        try:
            graded.append((case, right, worker.load_trace(file)))
        except Exception:  # whatever a damaged or forged file may raise
            return graded, True
    return graded, False


def _run(
    folder: Path, path: Path, spec: OpSpec | None, wanted: Sequence[tuple[Case, Expected]], seconds: float
) -> Ended:
    """Write the request, and run worker.py on it."""
    arrays: dict[str, Any] = {}

    def put(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        arrays[name := f"a{len(arrays)}"] = value
        return {"array": name}

    request: dict[str, Any] = {"file": str(path.resolve()), "known": list(FUNCTIONS), "cases": [], "seconds": seconds}
    if spec is not None:
        request |= {
            "functions": [spec.forward, spec.backward],
            "returns": spec.returns,
            "gradients": spec.gradients,
        }
        for case, right in wanted:
            request["cases"].append(
                {
                    "inputs": [(name, put(value)) for name, value in case.inputs.items()],
                    "options": case.options,
                    "dy": put(right.dy),
                    "rng_seed": case.rng_seed,
                    "probes": [{n: put(v) for n, v in probe.items()} for probe in probes(spec, case)],
                }
            )
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    np.savez(folder / "request.npz", **arrays)
    return run_isolated([str(Path(worker.__file__).resolve()), str(folder)], seconds, folder)
