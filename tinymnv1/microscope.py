"""The microscope: a depthwise separable convolution one step at a time, forward and backward, as pictures.

    frames = steps(x, w_depthwise, w_pointwise, dy)     every step, computed from the arrays themselves
    draw(frames[7])                                     one step as a Figure
    strip([frames[0], frames[7]])                       several below each other
    slider(frames)                                      in Jupyter: a slider and a play button (needs ipywidgets)

Meant for inputs of a few pixels and channels, whose numbers one can follow.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tinymnv1.errors import ConfigError
from tinymnv1.ops import depthwise_forward, pointwise_forward
from tinymnv1.ops.window import Array, pad, span
from tinymnv1.plots import BLUE

FORWARD_DEPTHWISE, FORWARD_POINTWISE, BACKWARD = "depthwise", "pointwise", "backward"


@dataclass(frozen=True)
class Panel:
    """A small matrix with its numbers. values: NaN where nothing has been written yet.

    marked: (row, column, height, width) of what this step reads or, if `written`, writes; or None.
    """

    title: str
    values: Array
    marked: tuple[int, int, int, int] | None = None
    written: bool = False


@dataclass(frozen=True)
class Frame:
    """One step. kind: "depthwise", "pointwise" or "backward".  caption: what happens, with the multiply-adds so far."""

    kind: str
    caption: str
    panels: tuple[Panel, ...]


def steps(x: Array, w_depthwise: Array, w_pointwise: Array, dy: Array | None = None, stride: int = 1) -> list[Frame]:
    """Every step of a depthwise and a pointwise convolution of one image, and of the depthwise one's backward.

    x: (H, W, C).  w_depthwise: (K, K, C).  w_pointwise: (C, O).  dy: (OH, OW, C), the gradient of the depthwise
    output; without it the backward steps are left out.  stride: of the depthwise convolution; padding is symmetric.
    Raises ConfigError where the shapes do not fit.
    """
    if x.ndim != 3 or w_pointwise.ndim != 2 or w_pointwise.shape[0] != x.shape[2]:
        raise ConfigError(
            f"the microscope needs x (H, W, C) and w_pointwise (C, O), got {x.shape} and {w_pointwise.shape}"
        )
    if w_depthwise.ndim == 3 and w_depthwise.shape[0] != w_depthwise.shape[1]:
        raise ConfigError(f"the microscope needs a square kernel, (K, K, C), got {w_depthwise.shape}")
    middle = depthwise_forward(x[None], w_depthwise, stride)[0]  # checks its shapes, too
    output = pointwise_forward(middle, w_pointwise)[0][0]
    if dy is not None and dy.shape != middle.shape[1:]:
        raise ConfigError(f"dy must have the shape of the depthwise output, {middle.shape[1:]}, got {dy.shape}")
    kernel, pixels, (channels, outputs) = w_depthwise.shape[0], middle[0, :, :, 0].size, w_pointwise.shape
    split, full = pixels * channels * (kernel**2 + outputs), pixels * channels * kernel**2 * outputs
    told = f"of {split:,} multiply-adds; a full convolution: {full:,}"
    found = [*_depthwise(x, w_depthwise, middle[0], stride, told)]
    found += _pointwise(middle[0], w_pointwise, output, len(found) * kernel**2, told)
    return found + ([] if dy is None else [*_backward(x, w_depthwise, dy, stride)])


def _padded(x: Array, kernel: int, stride: int) -> tuple[Array, int, int]:
    """x (H, W, C) with zeros around it, and how many of them are above and to the left."""
    _, top, bottom = span(x.shape[0], kernel, stride, "symmetric")
    _, left, right = span(x.shape[1], kernel, stride, "symmetric")
    return pad(x[None], (top, bottom), (left, right))[0], top, left


def _depthwise(x: Array, w: Array, y: Array, stride: int, told: str) -> Iterator[Frame]:
    kernel, (out_h, out_w, channels) = w.shape[0], y.shape
    xp, _, _ = _padded(x, kernel, stride)
    written = np.full(y.shape, np.nan)
    for count, (c, h, v) in enumerate(np.ndindex(channels, out_h, out_w), start=1):
        row, column = h * stride, v * stride
        products = xp[row : row + kernel, column : column + kernel, c] * w[:, :, c] + 0.0  # no -0
        written[h, v, c] = products.sum()
        panels = (
            Panel(f"x, channel {c}, zeros around it", xp[:, :, c], (row, column, kernel, kernel)),
            Panel("weights of that channel", w[:, :, c]),
            Panel("window times weights", products),
            Panel(f"depthwise output, channel {c}", written[:, :, c].copy(), (h, v, 1, 1), True),
        )
        sum_told = f"sum of {kernel**2} products = {written[h, v, c]:.3g}"
        yield Frame(FORWARD_DEPTHWISE, f"depthwise: {sum_told}; {count * kernel**2:,} {told}", panels)


def _pointwise(middle: Array, w: Array, output: Array, before: int, told: str) -> Iterator[Frame]:
    written = np.full(output.shape, np.nan)
    for count, (h, v) in enumerate(np.ndindex(*output.shape[:2]), start=1):
        written[h, v] = middle[h, v] @ w
        panels = (
            Panel("depthwise output, channel 0", middle[:, :, 0], (h, v, 1, 1)),
            Panel("all channels of that pixel", middle[h, v][:, None]),
            Panel("weights (channel, output)", w),
            Panel("outputs of that pixel", written[h, v][None], (0, 0, 1, w.shape[1]), True),
            Panel("output 0", written[:, :, 0].copy(), (h, v, 1, 1), True),
        )
        done = before + count * w.size
        yield Frame(FORWARD_POINTWISE, f"pointwise: the channels of one pixel are mixed; {done:,} {told}", panels)


def _backward(x: Array, w: Array, dy: Array, stride: int) -> Iterator[Frame]:
    kernel, (out_h, out_w, channels) = w.shape[0], dy.shape
    xp, _, _ = _padded(x, kernel, stride)
    dxp, dw = np.zeros(xp.shape), np.zeros(w.shape)
    for count, (c, h, v) in enumerate(np.ndindex(channels, out_h, out_w), start=1):
        row, column = h * stride, v * stride
        window = (slice(row, row + kernel), slice(column, column + kernel), c)
        dxp[window] += dy[h, v, c] * w[:, :, c]
        dw[:, :, c] += dy[h, v, c] * xp[window]
        place = (row, column, kernel, kernel)
        panels = (
            Panel(f"dy, channel {c}", dy[:, :, c], (h, v, 1, 1)),
            Panel("dx so far: += dy times weights", dxp[:, :, c].copy(), place, True),
            Panel(f"x, channel {c}", xp[:, :, c], place),
            Panel("dw so far: += dy times window", dw[:, :, c].copy(), (0, 0, kernel, kernel), True),
        )
        done, full = 2 * count * kernel**2, 2 * dy.size * kernel**2  # one for dx and one for dw at each tap
        told = f"dy = {dy[h, v, c]:.3g} goes where its window was; {done:,} of {full:,} multiply-adds"
        yield Frame(BACKWARD, f"depthwise, backward: {told}", panels)


def _draw_panel(axes: Axes, panel: Panel) -> None:
    values = panel.values
    largest = max(float(np.nanmax(np.abs(values), initial=0)), 1e-9)
    axes.imshow(np.where(np.isnan(values), 0, values), cmap="PuOr", vmin=-1.6 * largest, vmax=1.6 * largest)
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            axes.text(column, row, _number(value), ha="center", va="center", fontsize=8)
    if panel.marked:
        row, column, height, width = panel.marked
        colour, style = ("black", "--") if panel.written else (BLUE, "-")
        frame = Rectangle((column - 0.5, row - 0.5), width, height, fill=False, edgecolor=colour, linestyle=style)
        frame.set(linewidth=2.5, zorder=3, clip_on=False)  # whole, also along the panel's edge
        axes.add_patch(frame)
    axes.set_title(panel.title, fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("0.7")
    axes.grid(False)


def _number(value: float) -> str:
    """A whole number as it is, any other to two digits."""
    return f"{value:.0f}" if value == round(value) else f"{value:.2g}"


def strip(frames: Sequence[Frame]) -> Figure:
    """The steps as rows of one picture. A solid blue frame is read, a dashed black one is written."""
    figure = Figure(figsize=(11, 2.8 * len(frames)))
    figure.set_layout_engine("none")  # fixed places: laying out takes as long as drawing, and the slider draws a lot
    place = {"left": 0.01, "right": 0.99, "bottom": 0.03, "top": 0.8, "wspace": 0.12}
    rows = np.asarray(figure.subfigures(len(frames), 1, squeeze=False)).ravel()
    for part, frame in zip(rows, frames, strict=True):
        part.suptitle(frame.caption, fontsize=10, y=0.98)
        widths = [max(panel.values.shape[1], 2) / max(panel.values.shape[0], 2) for panel in frame.panels]
        grid = part.subplots(1, len(frame.panels), width_ratios=widths, gridspec_kw=place)
        for axes, panel in zip(grid, frame.panels, strict=True):
            _draw_panel(axes, panel)
    return figure


def draw(frame: Frame) -> Figure:
    """One step: what is read (solid blue), what is written (dashed black), and every number in it."""
    return strip([frame])


def _png(frame: Frame) -> bytes:
    png = io.BytesIO()
    draw(frame).savefig(png, format="png", dpi=90)
    return png.getvalue()


def slider(frames: Sequence[Frame]) -> Any:
    """A widget to walk through the steps with: a slider, a play button, and the picture. For Jupyter.

    Raises ConfigError if ipywidgets is missing, or if there are no frames.
    """
    if not frames:
        raise ConfigError("the microscope's slider needs at least one frame; steps() makes them")
    try:
        import ipywidgets
    except ImportError as error:
        raise ConfigError("the slider needs ipywidgets: pip install ipywidgets; strip(frames) works without") from error
    drawn = {0: _png(frames[0])}  # each picture is drawn once, when it is first looked at
    picture = ipywidgets.Image(value=drawn[0], format="png")
    step = ipywidgets.IntSlider(
        value=0, min=0, max=len(frames) - 1, description="step", layout=ipywidgets.Layout(width="70%")
    )
    play = ipywidgets.Play(min=0, max=len(frames) - 1, interval=400)
    ipywidgets.jslink((play, "value"), (step, "value"))

    def show(change: dict[str, Any]) -> None:
        number = change["new"]
        if number not in drawn:
            drawn[number] = _png(frames[number])
        picture.value = drawn[number]

    step.observe(show, names="value")
    return ipywidgets.VBox([ipywidgets.HBox([play, step]), picture])
