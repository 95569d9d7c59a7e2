"""The error explorer: why a gradient check uses float64, this step, and inputs away from the kinks. One figure."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from tinymnv1 import ops
from tinymnv1.gradcheck.numeric import relative_error
from tinymnv1.ops.window import Array
from tinymnv1.plots import BLUE, GREEN, ORANGE, VERMILLION


def _central(arrays: Sequence[Array], h: float) -> Array:
    """Batch norm's numeric dx with a step of exactly h, every sum in x's own precision. arrays: x, dy, gamma, beta."""
    x, dy, gamma, beta = arrays
    dx = np.empty_like(x)
    flat = x.reshape(-1)
    for k in range(flat.size):
        values = []
        for step in (h, -h):
            moved = flat.copy()
            moved[k] += x.dtype.type(step)
            y = ops.batchnorm_forward(moved.reshape(x.shape), gamma, beta)[0]
            values.append((y * dy).sum())
        dx.reshape(-1)[k] = (values[0] - values[1]) / x.dtype.type(2 * h)
    return dx


def error_against_step(seed: int = 0) -> tuple[Array, dict[str, Array]]:
    """Steps h, and for each dtype the largest relative error of batch norm's numeric dx at each of them."""
    rng = np.random.default_rng(seed)
    x, dy = rng.normal(size=(2, 3, 3, 2)), rng.normal(size=(2, 3, 3, 2))
    gamma, beta = rng.normal(size=2), rng.normal(size=2)
    right = ops.batchnorm_backward(dy, ops.batchnorm_forward(x, gamma, beta)[1])[0]
    steps = np.logspace(-12, 0, 37)
    errors = {}
    for dtype in ("float64", "float32"):
        single = [a.astype(dtype) for a in (x, dy, gamma, beta)]
        errors[dtype] = np.array([float(relative_error(_central(single, h).astype(float), right).max()) for h in steps])
    return steps, errors


def relu6_near_the_kinks(h: float, seed: int = 0) -> tuple[Array, Array, Array]:
    """Elements x of ReLU6, the error of their numeric derivative at step h, and whether the step crosses a kink."""
    x = np.sort(np.random.default_rng(seed).uniform(-2, 8, 160))
    y, _ = ops.relu6_forward(np.stack([x + h, x - h]))
    numeric = (y[0] - y[1]) / (2 * h)
    analytic = ((x > 0) & (x < 6)).astype(float)
    crosses = (np.abs(x) < h) | (np.abs(x - 6) < h)
    return x, np.abs(numeric - analytic), crosses


def error_explorer(seed: int = 0) -> Figure:
    """Left: error against the step, float32 and float64, with both slopes. Right: ReLU6, whose kinks a step crosses."""
    figure = Figure(figsize=(11.5, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps, errors = error_against_step(seed)
    for dtype, colour, marker in (("float32", VERMILLION, "s"), ("float64", BLUE, "o")):
        eps = float(np.finfo(dtype).eps)
        left.loglog(steps, errors[dtype], marker, color=colour, markersize=4, label=f"{dtype}, measured")
        left.loglog(steps, eps / steps, "--", color=colour, linewidth=1, label=f"round-off, eps / h, {dtype}")
        best = eps ** (1 / 3)
        left.axvline(best, color=colour, linewidth=0.8, linestyle=":")
        left.annotate(
            f"eps$^{{1/3}}$\n{best:.0e}", (best, 50), color=colour, fontsize=8, ha="left", va="top",
            xytext=(3, 0), textcoords="offset points",
        )  # fmt: skip
    left.loglog(steps, steps**2, "-", color=GREEN, linewidth=1, label="truncation, h$^2$")
    left.set_ylim(1e-13, 1e2)
    left.set_xlabel("step h")
    left.set_ylabel("largest relative error")
    left.set_title("Batch norm, dx by central differences")
    left.legend(fontsize=8, loc="lower left")
    h = 0.2
    x, error, crosses = relu6_near_the_kinks(h, seed)
    right.axvspan(-h, h, color=ORANGE, alpha=0.25, linewidth=0)
    right.axvspan(6 - h, 6 + h, color=ORANGE, alpha=0.25, linewidth=0, label="closer than h to a kink")
    right.plot(x[~crosses], error[~crosses], "o", color=BLUE, markersize=3, label="step stays on one side")
    right.plot(x[crosses], error[crosses], "X", color=VERMILLION, markersize=6, label="step crosses a kink")
    right.set_xlabel("x")
    right.set_ylabel("|numeric - analytic derivative|")
    right.set_title(f"ReLU6, h = {h}: {int(crosses.sum())} of {len(x)} elements cross 0 or 6")
    right.legend(fontsize=8, loc="upper center")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure
