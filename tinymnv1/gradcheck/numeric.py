"""Numeric gradients: the library. Nothing here knows about MobileNetV1; use it on ops of your own.

    numeric_gradient     the gradient of anything, by central differences
    check_gradient       one op: its forward/backward pair, every element of every input
    check_directional    a whole network: a few random directions, two evaluations each

Why the error is never zero, and why it is about 1e-10 all the same. Taylor's series around x gives

    (f(x + h) - f(x - h)) / 2h  =  f'(x) + h^2 f'''(x) / 6 + ...          the truncation error, growing as h^2

and the two values of f are each rounded to a relative eps, which after the division is about eps |f| / h: the
round-off error, growing as 1 / h. Their sum is least where h^2 = eps / h, so at h = eps^(1/3), where it is about
eps^(2/3): 4e-11 in float64, but 2e-5 in float32. So check in float64. A one-sided difference has a truncation error
of order h, and its best is only eps^(1/2) = 1.5e-8.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinymnv1.errors import ConfigError
from tinymnv1.ops.window import Array

STEP = float(np.finfo(np.float64).eps ** (1 / 3))
"""The step h that balances truncation and round-off in float64, 6e-6, for inputs of order 1."""

NETWORK_STEP = float(np.finfo(np.float64).eps ** (1 / 2))
"""The step for a whole network, 1.5e-8. Smaller than `STEP`: every ReLU whose kink a step crosses adds an error, and
how many it crosses grows with h."""

TOLERANCE = 1e-6
"""Above this a gradient is called wrong: far above the noise, far below what any mistake causes."""


@dataclass(frozen=True)
class Difference:
    """A gradient found by central differences.

    value: the gradient, shaped like x.  noise: the absolute error that rounding alone may cause in an element of it.
    """

    value: Array
    noise: float


def central_difference(
    f: Callable[[Array], Any], x: Array, dy: Array | float = 1.0, h: float | None = None
) -> Difference:
    """`numeric_gradient`, together with its own uncertainty, 4 eps sum |f * dy| / h. Arguments as there.

    (The 4 is for f, which is itself the result of several roundings.)
    """
    if not np.issubdtype(x.dtype, np.floating):
        raise ConfigError(f"a gradient needs a floating-point x, got {x.dtype}")
    if h is None:
        h = float(np.finfo(x.dtype).eps ** (1 / 3))
    if not h > 0:
        raise ConfigError(f"the step h must be above 0, got {h}")
    x = x.copy()  # the caller's array is never touched, not even for a moment
    value = np.empty(x.shape, x.dtype)
    size = 0.0
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + h
        above, step_up = f(x.copy()), x[index] - kept  # a copy, since f may write to it
        # f may hand out a view of something it writes again, so what is needed of it is taken at once.
        upper = np.asarray(above * dy).copy()
        x[index] = kept - h
        below, step_down = f(x.copy()), kept - x[index]
        difference = upper - np.asarray(below * dy)
        x[index] = kept
        # kept + h is rounded, too: dividing by the step really taken, not by 2h, saves a digit or two.
        value[index] = difference.sum() / (step_up + step_down)
        size = max(size, float(np.abs(upper).sum()))
    return Difference(value, 4 * float(np.finfo(x.dtype).eps) * size / h)


def numeric_gradient(f: Callable[[Array], Any], x: Array, dy: Array | float = 1.0, h: float | None = None) -> Array:
    """The gradient of L = sum(dy * f(x)) with respect to x, one element at a time: (L(x + h) - L(x - h)) / 2h.

    f: takes an array like x, returns an array or a number. It is called twice for each element of x.
    x: any shape, float64 (float32 works, with an error of about 1e-4). It is copied, never written to.
    dy: the upstream gradient, shaped like f(x); a number counts for all elements. Use random numbers, not ones: with
    ones, an error that sums to zero over the output is invisible.
    h: the step; by default eps^(1/3), the best for inputs of order 1.
    Returns an array shaped like x. Raises ConfigError if x is not floating point or h not positive.
    """
    return central_difference(f, x, dy, h).value


def relative_error(a: Array, b: Array, noise: float = 0.0, tolerance: float = TOLERANCE) -> Array:
    """|a - b| for each element, divided by the largest value in either array.

    a, b: arrays of one shape.  noise: the absolute uncertainty of b (see `Difference`).  tolerance: the limit that the
    result will be held to.
    Returns an array of that shape, infinite where a is not a number.

    Dividing each element by itself would make every element near zero a false alarm: 1e-12 instead of 0 is an "error
    of 100 %". And where the whole gradient is zero, the largest value is itself rounding; so the divisor is at least
    noise / tolerance, with which a difference as large as the noise is just let pass.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.size == 0:
        return np.zeros(a.shape)
    with np.errstate(all="ignore"):
        scale = max(float(np.abs(b).max()), noise / tolerance, np.finfo(np.float64).tiny)
        finite = a[np.isfinite(a)]
        if finite.size:
            scale = max(scale, float(np.abs(finite).max()))
        error = np.abs(a - b) / scale
    return np.where(np.isfinite(a) & np.isfinite(error), error, np.inf)


def largest(error: Array) -> tuple[float, tuple[int, ...]]:
    """The largest value of an error array and its index."""
    if error.size == 0:
        return 0.0, ()
    where = np.unravel_index(int(np.argmax(error)), error.shape)
    return float(error[where]), tuple(int(k) for k in where)


@dataclass(frozen=True)
class ArgumentCheck:
    """One gradient beside its numeric twin.

    argument: the input's name.  error: the largest relative error, at index `where`.  tolerance: what it is held to.
    analytic, numeric: both gradients, for a closer look.  problem: why they could not even be compared, or None.
    """

    argument: str
    error: float
    where: tuple[int, ...]
    tolerance: float
    analytic: Any
    numeric: Array
    problem: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the gradient is right."""
        return self.problem is None and self.error <= self.tolerance

    def __str__(self) -> str:
        if self.problem:
            return f"{self.argument:<12} {self.problem}"
        verdict = "ok" if self.passed else "WRONG"
        place = f" at {list(self.where)}" if self.where else ""
        return f"{self.argument:<12} largest relative error {self.error:.1e}{place}  {verdict}"


@dataclass(frozen=True)
class GradientCheck:
    """What `check_gradient` and `check_directional` found: one `ArgumentCheck` an argument or direction. Print it.

    It is true if it passed, so that it can be asserted.
    """

    arguments: tuple[ArgumentCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether there was a gradient to check, and every one is right."""
        return bool(self.arguments) and all(check.passed for check in self.arguments)

    def __bool__(self) -> bool:
        return self.passed

    @property
    def error(self) -> float:
        """The largest relative error of all."""
        return max((check.error for check in self.arguments), default=0.0)

    def __str__(self) -> str:
        return "\n".join(map(str, self.arguments)) or "no gradient to check: is backward's return missing?"


def check_gradient(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    inputs: Mapping[str, Array],
    *,
    rng: int | np.random.Generator = 0,
    h: float | None = None,
    tolerance: float = TOLERANCE,
) -> GradientCheck:
    """Check a forward/backward pair: every element of every input, by central differences in float64.

    forward: called as forward(*inputs.values()), returns y, cache (anything after the two is ignored). Bind further
    arguments with functools.partial.
    backward: called as backward(dy, cache), returns the gradients in the order of the inputs (not as a tuple if there
    is just one); None in a place leaves that input unchecked.
    inputs: name -> float64 array. Keep values off the kinks of f: a step that crosses one gives a wrong numeric
    gradient, not a wrong op.
    rng: draws the upstream gradient dy.  h, tolerance: see `numeric_gradient` and `TOLERANCE`.
    Returns a `GradientCheck`. Raises ConfigError if an input is not float64 or the number of gradients is wrong.
    """
    for name, array in inputs.items():
        if array.dtype != np.float64:
            raise ConfigError(f"check_gradient: {name} must be float64, got {array.dtype}: float32 hides small errors")
    arrays = list(inputs.values())
    y, cache = forward(*[array.copy() for array in arrays])[:2]
    dy = np.random.default_rng(rng).normal(size=np.shape(y))
    returned = backward(dy.copy(), cache)
    gradients = list(returned) if isinstance(returned, tuple | list) else [returned]
    if len(gradients) != len(arrays):
        raise ConfigError(f"check_gradient: {len(arrays)} inputs, but backward returned {len(gradients)} gradients")
    checks = []
    for place, (name, gradient) in enumerate(zip(inputs, gradients, strict=True)):
        if gradient is None:
            continue

        def vary(array: Array, place: int = place) -> Any:
            return forward(*(array if k == place else other.copy() for k, other in enumerate(arrays)))[0]

        numeric = central_difference(vary, arrays[place], dy, h)
        checks.append(_compare(name, gradient, numeric, tolerance))
    return GradientCheck(tuple(checks))


def _compare(name: str, gradient: Any, numeric: Difference, tolerance: float) -> ArgumentCheck:
    if np.shape(gradient) != numeric.value.shape:
        problem = f"the gradient has shape {np.shape(gradient)}, the input has {numeric.value.shape}"
        return ArgumentCheck(name, math.inf, (), tolerance, gradient, numeric.value, problem)
    error, where = largest(relative_error(gradient, numeric.value, numeric.noise, tolerance))
    return ArgumentCheck(name, error, where, tolerance, gradient, numeric.value)


def check_directional(
    loss: Callable[[], float],
    parameters: Mapping[str, Array] | Sequence[Array],
    gradients: Mapping[str, Array] | Sequence[Array],
    *,
    directions: int = 5,
    rng: int | np.random.Generator = 0,
    h: float | None = None,
    tolerance: float = 1e-5,
) -> GradientCheck:
    """Check the gradient of a whole network along random directions, with two evaluations of the loss for each.

    loss: takes nothing, returns the loss with the parameters as they are now. It must give the same value when called
    again (fix the dropout mask; running statistics that it only writes do no harm).
    parameters: name -> float64 array (or a list), which this moves **in place** and puts back to the bit, also when
    the loss raises.  gradients: the same names and shapes: what your backward pass says.
    directions: how many.  rng: draws them.
    h: how far the elements move (their root mean square), by default `NETWORK_STEP`.
    tolerance: looser than for one op: among a network's thousands of ReLUs a few cross their kink within a step.
    Returns a `GradientCheck`, an entry a direction. Raises ConfigError if names, shapes or dtypes do not fit, or if
    there is nothing to check.

    Derivation. Along v the slope of L is <gradient, v>; with v normal in every element it sees all parameters at once,
    and an error in any of them changes it. The error is measured against the larger of the two slopes; against
    |gradient|, the slope's standard deviation, if a direction happens to be nearly level; and against the rounding of
    the loss, if that is so large that it hides the slope (see `relative_error`).
    """
    arrays = dict(parameters) if isinstance(parameters, Mapping) else {str(k): p for k, p in enumerate(parameters)}
    grads = dict(gradients) if isinstance(gradients, Mapping) else {str(k): g for k, g in enumerate(gradients)}
    if arrays.keys() != grads.keys():
        raise ConfigError(f"check_directional: parameters {sorted(arrays)} but gradients {sorted(grads)}")
    for name, array in arrays.items():
        if array.dtype != np.float64 or grads[name].shape != array.shape:
            raise ConfigError(
                f"check_directional: {name} must be float64 with a gradient of its shape {array.shape}, got"
                f" {array.dtype} and {grads[name].shape}"
            )
    if not arrays or directions < 1:
        raise ConfigError(
            f"check_directional: nothing to check with {len(arrays)} parameters and {directions} directions"
        )
    rng = np.random.default_rng(rng)
    step = NETWORK_STEP if h is None else h
    if not step > 0:
        raise ConfigError(f"the step h must be above 0, got {h}")
    grads = {
        name: gradient.copy() for name, gradient in grads.items()
    }  # a loss that runs backward would overwrite them
    typical = math.sqrt(sum(float((g * g).sum()) for g in grads.values()))
    kept = {name: array.copy() for name, array in arrays.items()}
    checks = []
    try:
        for k in range(directions):
            v = {name: rng.normal(size=array.shape) for name, array in arrays.items()}
            values = []
            for sign in (1, -1):
                for name, array in arrays.items():
                    array[...] = kept[name] + sign * step * v[name]
                values.append(float(loss()))
            numeric = (values[0] - values[1]) / (2 * step)
            analytic = sum(float((grads[name] * v[name]).sum()) for name in arrays)
            noise = 4 * float(np.finfo(np.float64).eps) * max(map(abs, values)) / step
            scale = max(abs(numeric), abs(analytic), typical, noise / tolerance, float(np.finfo(np.float64).tiny))
            error = abs(numeric - analytic) / scale
            error = error if math.isfinite(error) else math.inf
            checks.append(ArgumentCheck(f"direction {k}", error, (), tolerance, analytic, np.array(numeric)))
    finally:
        for name, array in arrays.items():
            array[...] = kept[name]
    return GradientCheck(tuple(checks))
