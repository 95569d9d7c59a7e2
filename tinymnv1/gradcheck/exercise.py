"""What the check cells of the course's notebooks call: it says "passed", "not attempted yet", or what is wrong.

    check_op(relu6_forward, relu6_backward)          one of the known ops, on the grader's cases, with its hints
    check_gradients(forward, backward, {"x": x})     an op of one's own, against numeric gradients
    check_function(output_size, [((32, 3), 30)])     any function, on (arguments, result) pairs
    check_value("parameters", yours, true)           a number, an array, a word
    check_that("the sum is 1", holds, "divide by the sum")

Each prints its verdict and returns nothing, so that a cell can hold several. What raises NotImplementedError, and a
value that is still None, is "not attempted yet", which is no error. `recording` collects the verdicts: the tests use it
to hold every exercise to its stub, its solution and its plausible wrong answers.
"""

import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tinymnv1.errors import ConfigError
from tinymnv1.gradcheck.findings import FAILED, NOT_ATTEMPTED, PASSED
from tinymnv1.gradcheck.grade import grade_functions
from tinymnv1.gradcheck.numeric import TOLERANCE, check_gradient, relative_error
from tinymnv1.gradcheck.report import details, summary_line
from tinymnv1.gradcheck.spec import FUNCTIONS
from tinymnv1.ops.window import Array


@dataclass(frozen=True)
class Verdict:
    """status: findings.PASSED, FAILED or NOT_ATTEMPTED.  text: what the learner read."""

    status: str
    text: str


_recordings: list[list[Verdict]] = []
_LIBRARIES = (str(Path(__file__).parents[1]), *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")))
_WORDS = {PASSED: "passed", FAILED: "not right yet", NOT_ATTEMPTED: "not attempted yet"}


@contextmanager
def recording() -> Iterator[list[Verdict]]:
    """Collect the verdicts of all checks made inside the `with`."""
    verdicts: list[Verdict] = []
    _recordings.append(verdicts)
    try:
        yield verdicts
    finally:
        _recordings.pop()  # they end in reverse order; `remove` would take the first that is equal


def _tell(name: str, status: str, *lines: str) -> None:
    text = "\n".join([f"{name}: {_WORDS[status]}", *(f"    {line}" for line in lines)])
    for verdicts in _recordings:
        verdicts.append(Verdict(status, text))
    print(text)


def check_op(forward: Callable[..., Any], backward: Callable[..., Any] | None = None, seed: int = 0) -> None:
    """Grade one of the ops that the grader knows, by the functions' names, as `python -m tinymnv1.gradcheck` does.

    forward, backward: functions named as in `tinymnv1.ops`; without backward only the forward is graded. What is not
    the learner's own fails: a cell run again may have put the library's function in its place.
    seed: draws the inputs. Raises ConfigError for a name that the grader does not know.
    """
    spec = FUNCTIONS.get(forward.__name__)
    if spec is None or forward.__name__ != spec.forward or (backward and backward.__name__ != spec.backward):
        names = " and ".join(f.__name__ for f in (forward, backward) if f)
        raise ConfigError(f"check_op knows no op with the functions {names}; the known ones: {', '.join(FUNCTIONS)}")
    last = backward or forward
    if last.__module__.startswith(("tinymnv1.ops.", "tinymnv1.kernels.")):
        _tell(last.__name__, FAILED, "this is tinymnv1's own function: run the cell with yours again")
        return
    functions = {forward.__name__: forward}
    if backward:
        functions[backward.__name__] = backward
    else:
        spec = replace(spec, backward=None, gradients=())
    for result in grade_functions(spec, functions, seed):
        errors = summary_line(result).split(maxsplit=2)[2:] if result.status == PASSED else []
        told = [f"largest relative errors: {errors[0]}"] if errors else details(result).splitlines()
        _tell(result.function, result.status, *told)


def check_gradients(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    inputs: Mapping[str, Array],
    tolerance: float = TOLERANCE,
) -> None:
    """Compare an op's gradients with central differences: a random upstream gradient, every element.

    forward: takes the inputs, in order; returns y, cache.  backward: takes dy, cache; returns the inputs' gradients.
    inputs: name -> float64 array, off the kinks.  tolerance: largest relative error.
    """
    name = getattr(backward, "__name__", "backward")
    try:
        check = check_gradient(forward, backward, inputs, tolerance=tolerance)
    except NotImplementedError:
        _tell(name, NOT_ATTEMPTED)
        return
    except Exception as error:
        _tell(name, FAILED, _told(error))
        return
    missing = [key for key in inputs if key not in {argument.argument for argument in check.arguments}]
    lines = [str(argument) for argument in check.arguments]
    lines += [f"{key:<12} its gradient is None: is the return missing?" for key in missing]
    _tell(name, PASSED if check.passed and not missing else FAILED, *lines)


def check_function(
    function: Callable[..., Any], cases: Sequence[tuple[tuple[Any, ...], Any]], tolerance: float = 1e-9
) -> None:
    """Compare a function's results with the right ones, and show the first that differs.

    cases: (arguments, right result) pairs; arrays among the arguments are copied, and must come back unchanged.
    tolerance: largest relative error of a number; words, truth values and two whole numbers must be equal.
    """
    if not callable(function):
        _tell("the function", FAILED, f"is {_short(function)} by now: run the cell that defines it again")
        return
    name = function.__name__
    for arguments, true in cases:
        own = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
        shown = f"{name}({', '.join(_short(a) for a in arguments)})"
        try:
            yours = function(*own)
        except NotImplementedError:
            _tell(name, NOT_ATTEMPTED)
            return
        except Exception as error:
            _tell(name, FAILED, shown, _told(error))
            return
        if (wrong := _difference(yours, true, tolerance)) is not None:
            _tell(name, FAILED, shown, *wrong)
            return
        if any(isinstance(a, np.ndarray) and not _same(a, b) for a, b in zip(arguments, own, strict=True)):
            _tell(name, FAILED, shown, "it writes to its inputs: work on a copy")
            return
    _tell(name, PASSED, f"{len(cases)} cases")


def check_value(name: str, yours: Any, true: Any, tolerance: float = 1e-6, hint: str = "") -> None:
    """Compare a value with the right one.

    yours: None while it is not attempted.
    tolerance: largest relative error of a number; two whole numbers must be equal.
    hint: shown if it is wrong.
    """
    if yours is None:
        _tell(name, NOT_ATTEMPTED)
        return
    if (wrong := _difference(yours, true, tolerance)) is not None:
        _tell(name, FAILED, *wrong, *([f"hint: {hint}"] if hint else []))
        return
    _tell(name, PASSED, f"yours = {_short(yours)}")


def check_that(what: str, holds: bool | None, otherwise: str = "") -> None:
    """Say whether a claim holds; None means that there is nothing to judge yet. otherwise: what to tell if it fails."""
    if holds is None:
        _tell(what, NOT_ATTEMPTED)
        return
    _tell(what, PASSED if holds else FAILED, *([otherwise] if otherwise and not holds else []))


def _told(error: Exception) -> str:
    """The exception, and the deepest line of the learner's own: inside NumPy or here a line would tell nothing."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if not frame.filename.startswith(_LIBRARIES)]
    return f"raised {type(error).__name__}: {error}" + (f" (line {lines[-1]})" if lines else "")


def _same(a: Array, b: Array) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.size > 12:
        return f"array of shape {value.shape}"
    if isinstance(value, np.ndarray):
        return np.array2string(value, precision=6, separator=", ").replace("\n", "")
    if callable(value):
        return getattr(value, "__name__", "a function")
    return f"{value:.7g}" if isinstance(value, float) else str(value) if isinstance(value, np.generic) else repr(value)


def _difference(yours: Any, true: Any, tolerance: float) -> list[str] | None:
    """What to say where a result is wrong, or None where it is right."""
    both = [f"yours = {_short(yours)}", f"true  = {_short(true)}"]
    if isinstance(true, tuple | list):
        if not isinstance(yours, tuple | list) or len(yours) != len(true):
            return both
        for k, (a, b) in enumerate(zip(yours, true, strict=True), 1):
            if (wrong := _difference(a, b, tolerance)) is not None:
                return [f"result {k} of {len(true)}:", *wrong]
        return None
    for exact in (str, bool | np.bool_, type(None)):
        if isinstance(true, exact):
            return None if isinstance(yours, exact) and yours == true else both
    if not isinstance(yours, int | float | np.generic | np.ndarray) or isinstance(yours, bool | np.bool_):
        kind = type(yours).__name__
        return [f"yours is {'None: is the return missing?' if yours is None else f'a {kind}'}", both[1]]
    got, want = np.asarray(yours), np.asarray(true)
    if got.shape != want.shape:
        return [f"yours has shape {got.shape}", f"true  has shape {want.shape}"]
    if got.dtype.kind not in "iufb":
        return [f"yours holds {got.dtype}, not numbers", both[1]]
    if got.dtype.kind in "iu" and want.dtype.kind in "iu":
        error = np.where(got == want, 0.0, np.inf)
    else:
        error = relative_error(got.astype(np.float64), want.astype(np.float64))
    if not error.size or error.max() <= tolerance:
        return None
    if got.ndim == 0:
        return both
    where = tuple(int(k) for k in np.unravel_index(int(error.argmax()), error.shape))
    place = ", ".join(map(str, where))
    return [
        f"{int((error > tolerance).sum())} of {error.size} elements are wrong, the worst at [{place}]:",
        f"yours = {_short(float(got[where]))}",
        f"true  = {_short(float(want[where]))}",
    ]
