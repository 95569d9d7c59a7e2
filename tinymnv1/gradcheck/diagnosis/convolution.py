"""What conv2d and depthwise give under each common mistake.

A depthwise convolution is an ordinary one whose kernel is zero between different channels, so both are computed by one
function here. It works on a canvas with a wide margin, on which a window may start anywhere.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinymnv1.gradcheck.diagnosis.causes import Candidate
from tinymnv1.ops.window import Array, span, tap


class _Windows:
    """One convolution in all its wrong ways: where the windows start, how far apart they lie."""

    def __init__(self, x: Array, w: Array, dy: Array, stride: int) -> None:
        self.x, self.w, self.dy, self.stride = x, w, dy, stride
        self.margin = max(w.shape[:2]) + stride
        m = self.margin
        self.canvas = np.pad(x, ((0, 0), (m, m), (m, m), (0, 0)))

    def taps(self, top: int, left: int, stride: int, canvas: Array) -> Iterator[tuple[int, int, Array]]:
        for i, j in np.ndindex(*self.w.shape[:2]):
            start = canvas[:, self.margin - top + i :, self.margin - left + j :]
            yield i, j, tap(start, 0, 0, stride, *self.dy.shape[1:3])

    def y(self, top: int, left: int, w: Array, stride: int | None = None) -> Array:
        return sum(grid @ w[i, j] for i, j, grid in self.taps(top, left, stride or self.stride, self.canvas))

    def dw(self, top: int, left: int, stride: int | None = None, images: slice = slice(None)) -> Array:
        dw = np.zeros_like(self.w)
        for i, j, grid in self.taps(top, left, stride or self.stride, self.canvas):
            dw[i, j] = np.einsum("nhwc,nhwo->co", grid[images], self.dy[images])
        return dw

    def dx(
        self, top: int, left: int, w: Array, stride: int | None = None, add: bool = True, crop: tuple[int, int] = (0, 0)
    ) -> Array:
        canvas = np.zeros_like(self.canvas)
        for i, j, grid in self.taps(top, left, stride or self.stride, canvas):
            grid[...] = self.dy @ w[i, j].T + (grid if add else 0)
        h, v = self.margin + crop[0], self.margin + crop[1]
        return canvas[:, h : h + self.x.shape[1], v : v + self.x.shape[2]]


def candidates(inputs: dict[str, Any], options: dict[str, Any], dy: Array) -> Iterator[Candidate]:
    """Wrong y, dx and dw of conv2d (w: KH, KW, Cin, Cout) or depthwise (w: KH, KW, C)."""
    x, w = inputs["x"], inputs["w"]
    depthwise = w.ndim == 3
    if depthwise:
        w = w[:, :, :, None] * np.eye(w.shape[2])
    for argument, cause, array in _ordinary(x, w, dy, options):
        if depthwise and argument == "dw":
            array = np.einsum("ijcc->ijc", array)
        yield argument, cause, array


def _ordinary(x: Array, w: Array, dy: Array, options: dict[str, Any]) -> Iterator[Candidate]:
    stride, padding = options.get("stride", 1), options.get("padding", "symmetric")
    (kh, kw), (height, width), n = w.shape[:2], x.shape[1:3], len(x)
    (_, top, bottom), (_, left, right) = span(height, kh, stride, padding), span(width, kw, stride, padding)
    windows = _Windows(x, w, dy, stride)
    dw = windows.dw(top, left)

    kernels = [("kernel flipped", w[::-1, ::-1])]
    if kh == kw:
        kernels.append(("kernel transposed", w.swapaxes(0, 1)))
        yield "dw", "kernel transposed", dw.swapaxes(0, 1)
    if w.shape[2] == w.shape[3]:
        kernels.append(("channels transposed", w.swapaxes(2, 3)))
        yield "dw", "transposed", dw.swapaxes(2, 3)
    for cause, wrong in kernels:
        yield "y", cause, windows.y(top, left, wrong)
        yield "dx", cause, windows.dx(top, left, wrong)
    yield "dw", "kernel flipped", dw[::-1, ::-1]

    yield "y", "stride forgotten", windows.y(top, left, w, 1)
    yield "dx", "stride forgotten", windows.dx(top, left, w, 1)
    yield "dw", "stride forgotten", windows.dw(top, left, 1)
    yield "dx", "overwritten instead of added", windows.dx(top, left, w, add=False)
    yield "dx", "padding not cropped", windows.dx(top, left, w, crop=(-top, -left))
    yield "dx", "padding not cropped", windows.dx(top, left, w, crop=(bottom - top, right - left))

    other = "tf" if padding == "symmetric" else "symmetric"
    (_, t, _), (_, s, _) = span(height, kh, stride, other), span(width, kw, stride, other)
    starts = [("padding mode ignored", t, s)]
    starts += [("heights and widths swapped", left, top)]
    starts += [("padding off by one", top + a, left + b) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b]
    for cause, a, b in starts:
        if (a, b) != (top, left) and max(a, b) < windows.margin:
            yield "y", cause, windows.y(a, b, w)
            yield "dx", cause, windows.dx(a, b, w)
            yield "dw", cause, windows.dw(a, b)

    yield "dw", "only one image", windows.dw(top, left, images=slice(0, 1))
    yield "dw", "only one image", windows.dw(top, left, images=slice(n - 1, n))
    yield "dw", "divided by the batch", dw / n
    yield "dw", "mean instead of sum", dw / (n * dy.shape[1] * dy.shape[2])
    yield "dw", "mean instead of sum", dw / (dy.shape[1] * dy.shape[2])
    yield "dx", "divided by the batch", windows.dx(top, left, w) / n
    windows.dy = np.ones_like(dy)
    yield "dx", "upstream gradient forgotten", windows.dx(top, left, w)
    yield "dw", "upstream gradient forgotten", windows.dw(top, left)
