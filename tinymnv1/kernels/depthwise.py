"""Depthwise convolution in Numba; the mathematics and its derivation are in `tinymnv1.ops.depthwise`.

The 3x3 kernel, the only one in MobileNetV1, is written with explicit vectors of LANES channels (`simd.py`). Nothing is
padded or copied: taps that fall outside the image count as products with zero.

Both ways go through memory strip by strip (`strips.py`). Backward makes dx and dw in one pass: the same nine values of
dy around a pixel are multiplied by the weights for dx, and by the pixel for dw. The sums of dw are in memory, that is
in a cache: to keep them in registers, and slide along a row for one vector of channels, was no faster on long rows, and
1.7 to 4 times as slow on rows of four and eight pixels.

Kernels of other sizes, and backward strides above 2, take the plain loops at the end.
"""

import numpy as np
from numba import prange

from tinymnv1.kernels.blocks import Window, sum_chunks
from tinymnv1.kernels.compile import (
    CHUNKS,
    aligned,
    aligned_like,
    aligned_zeros,
    as_float32,
    far,
    gradient_of,
    parallel,
)
from tinymnv1.kernels.simd import LANES
from tinymnv1.kernels.strips import depthwise_row, packed_filter
from tinymnv1.kernels.strips_backward import ZERO_ROWS, depthwise_row_backward
from tinymnv1.ops.depthwise import Cache, check_depthwise
from tinymnv1.ops.window import Array, span

CHUNK_PIXELS = 96
"""A chunk of rows has at least so many pixels, eight times the rows of its sums of dw, which cost memory, too."""


@parallel
def _forward3(window, x, w, y, channels, far):
    """3x3, any stride. x, y: flat. w, far: as `depthwise_row` wants them."""
    _, _, _, out_h, out_w, _, _, _ = window
    whole = channels // LANES * LANES
    for r in prange(window.images * out_h):
        row = np.int64(r)
        n, oh, place = row // out_h, row % out_h, row * out_w * channels
        depthwise_row(window, x, channels, w, None, None, None, y, place, channels, n, oh, 0, whole, None, far)
        if whole < channels:
            depthwise_row(
                window, x, channels, w, None, None, None, y, place, channels, n, oh, whole, channels,
                channels - whole, far,
            )  # fmt: skip


@parallel
def _backward3(dy, x, w, dx, dw, window, channels, chunks, groups, far):
    """3x3, stride 1 or 2. A unit of work is a chunk of the rows, and one of `groups` equal shares of the channels.

    w, far: as `depthwise_row_backward` wants them.  dw: (chunks, 9 + ZERO_ROWS, C), flat: each chunk has its own sum.
    """
    rows, blocks = window.images * window.height, (channels + LANES - 1) // LANES
    for unit in prange(chunks * groups):
        chunk, group = np.int64(unit) // groups, np.int64(unit) % groups
        c0, c1 = group * blocks // groups * LANES, min((group + 1) * blocks // groups * LANES, channels)
        idw = chunk * (9 + ZERO_ROWS) * channels
        for r in range(chunk * rows // chunks, (chunk + 1) * rows // chunks):
            n, h = r // window.height, r % window.height
            depthwise_row_backward(dy, x, w, dx, dw, idw, window, channels, n, h, c0, c1, far)


@parallel
def _forward_any(x, w, y, stride, top, left):
    """Any kernel size: the formula, with the channels innermost."""
    rows, height, width = y.shape[1], x.shape[1], x.shape[2]
    for r in prange(y.shape[0] * rows):
        n, oh = r // rows, r % rows
        for ow in range(y.shape[2]):
            y[n, oh, ow, :] = 0
            for i in range(w.shape[0]):
                h = oh * stride + i - top
                for j in range(w.shape[1]):
                    v = ow * stride + j - left
                    if 0 <= h < height and 0 <= v < width:
                        for c in range(y.shape[3]):
                            y[n, oh, ow, c] += x[n, h, v, c] * w[i, j, c]


@parallel
def _backward_any(dy, x, w, dx, dw, stride, top, left):
    """Any kernel size. dw: (chunks, KH, KW, C); dx: zeros."""
    images, height, width, chunks = x.shape[0], x.shape[1], x.shape[2], dw.shape[0]
    for chunk in prange(chunks):
        for n in range(chunk * images // chunks, (chunk + 1) * images // chunks):
            for oh in range(dy.shape[1]):
                for ow in range(dy.shape[2]):
                    for i in range(w.shape[0]):
                        h = oh * stride + i - top
                        for j in range(w.shape[1]):
                            v = ow * stride + j - left
                            if 0 <= h < height and 0 <= v < width:
                                for c in range(x.shape[3]):
                                    dx[n, h, v, c] += w[i, j, c] * dy[n, oh, ow, c]
                                    dw[chunk, i, j, c] += x[n, h, v, c] * dy[n, oh, ow, c]


def depthwise_forward(x: Array, w: Array, stride: int = 1, padding: str = "symmetric") -> tuple[Array, Cache]:
    """As `tinymnv1.ops.depthwise_forward`, float32 only: x (N, H, W, C), w (KH, KW, C) -> y (N, OH, OW, C), cache."""
    check_depthwise(x, w)
    x, w = as_float32(x, "x"), as_float32(w, "w")
    out_h, top, _ = span(x.shape[1], w.shape[0], stride, padding)
    out_w, left, _ = span(x.shape[2], w.shape[1], stride, padding)
    y = aligned(x.shape[0] * out_h * out_w * x.shape[3])
    if w.shape[:2] == (3, 3):
        images, height, width, channels = x.shape
        window = Window(images, height, width, out_h, out_w, stride, top, left)
        _forward3(window, x.reshape(-1), packed_filter(w), y, channels, far(x, y))
    y = y.reshape(x.shape[0], out_h, out_w, x.shape[3])
    if w.shape[:2] != (3, 3):
        _forward_any(x, w, y, stride, top, left)
    return y, (x, w, stride, padding)


def depthwise_backward(dy: Array, cache: Cache) -> tuple[Array, Array]:
    """As `tinymnv1.ops.depthwise_backward`: dy (N, OH, OW, C) -> dx (N, H, W, C), dw (KH, KW, C)."""
    x, w, stride, padding = cache
    out_h, top, _ = span(x.shape[1], w.shape[0], stride, padding)
    out_w, left, _ = span(x.shape[2], w.shape[1], stride, padding)
    dy = gradient_of((x.shape[0], out_h, out_w, x.shape[3]), dy, "depthwise")
    images, height, width, channels = x.shape
    if w.shape[:2] != (3, 3) or stride > 2:
        dx = np.zeros_like(x)
        sums = np.zeros((min(images, CHUNKS), *w.shape))  # float64: a chunk may be the whole of a large image
        _backward_any(dy, x, w, dx, sums, stride, top, left)
        return dx, sums.sum(axis=0).astype(np.float32)
    chunks = min(max(images * height * width // CHUNK_PIXELS, 1), images * height, CHUNKS)
    rows = 9 + ZERO_ROWS  # of a chunk's sums
    partial_dw, dx, dw = aligned_zeros(chunks * rows * channels), aligned_like(x), aligned_like(w)
    weights = aligned_zeros(rows * channels)
    weights[: w.size] = w.reshape(-1)
    flat = (a.reshape(-1) for a in (dy, x, weights, dx, partial_dw))
    window = Window(images, height, width, out_h, out_w, stride, top, left)
    groups = min(-(-channels // LANES), CHUNKS // chunks)  # few pixels: share the channels out as well
    _backward3(*flat, window, channels, chunks, groups, far(dy, x, dx))
    sum_chunks(partial_dw, chunks, rows * channels, channels, 9, channels, dw.reshape(-1))
    return dx, dw
