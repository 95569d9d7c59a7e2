"""Depthwise convolution in Numba; the mathematics and its derivation are in `tinymnv1.ops.depthwise`.

The innermost loop runs over channels, which are contiguous in NHWC, so the compiler turns it into vector
instructions. Rows and columns of the kernel that fall outside the image are skipped: nothing is padded or copied.
"""

import numpy as np
from numba import prange

from tinymnv1.kernels.compile import CHUNKS, as_float32, parallel, serial
from tinymnv1.ops.depthwise import Cache, check_depthwise
from tinymnv1.ops.window import Array, span


@serial
def _forward_row(x, w, y, n, oh, stride, top, left):  # type: ignore[no-untyped-def]
    """One output row: y[n, oh]."""
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    for ow in range(y.shape[2]):
        for c in range(channels):
            y[n, oh, ow, c] = 0
        for i in range(w.shape[0]):
            h = oh * stride + i - top
            if h < 0 or h >= height:
                continue
            for j in range(w.shape[1]):
                v = ow * stride + j - left
                if v < 0 or v >= width:
                    continue
                for c in range(channels):
                    y[n, oh, ow, c] += x[n, h, v, c] * w[i, j, c]


@parallel
def _forward(x, w, y, stride, top, left):  # type: ignore[no-untyped-def]
    rows = y.shape[1]
    for r in prange(y.shape[0] * rows):
        _forward_row(x, w, y, r // rows, r % rows, stride, top, left)


@serial
def _backward_image(dy, x, w, dx, dw, n, stride, top, left):  # type: ignore[no-untyped-def]
    """dx[n], and this image's share of dw, in one pass over dy[n]."""
    height, width, channels = x.shape[1], x.shape[2], x.shape[3]
    for oh in range(dy.shape[1]):
        for ow in range(dy.shape[2]):
            for i in range(w.shape[0]):
                h = oh * stride + i - top
                if h < 0 or h >= height:
                    continue
                for j in range(w.shape[1]):
                    v = ow * stride + j - left
                    if v < 0 or v >= width:
                        continue
                    for c in range(channels):
                        dx[n, h, v, c] += w[i, j, c] * dy[n, oh, ow, c]
                        dw[i, j, c] += x[n, h, v, c] * dy[n, oh, ow, c]


@parallel
def _backward(dy, x, w, dx, partial_dw, stride, top, left):  # type: ignore[no-untyped-def]
    n_images, chunks = x.shape[0], partial_dw.shape[0]
    for chunk in prange(chunks):
        for n in range(chunk * n_images // chunks, (chunk + 1) * n_images // chunks):
            _backward_image(dy, x, w, dx, partial_dw[chunk], n, stride, top, left)


def depthwise_forward(x: Array, w: Array, stride: int = 1, padding: str = "symmetric") -> tuple[Array, Cache]:
    """As `tinymnv1.ops.depthwise_forward`, float32 only: x (N, H, W, C), w (KH, KW, C) -> y (N, OH, OW, C), cache."""
    check_depthwise(x, w)
    x, w = as_float32(x, "x"), as_float32(w, "w")
    out_h, top, _ = span(x.shape[1], w.shape[0], stride, padding)
    out_w, left, _ = span(x.shape[2], w.shape[1], stride, padding)
    y = np.empty((x.shape[0], out_h, out_w, x.shape[3]), np.float32)
    _forward(x, w, y, stride, top, left)
    return y, (x, w, stride, padding)


def depthwise_backward(dy: Array, cache: Cache) -> tuple[Array, Array]:
    """As `tinymnv1.ops.depthwise_backward`: dy (N, OH, OW, C) -> dx (N, H, W, C), dw (KH, KW, C)."""
    x, w, stride, padding = cache
    _, top, _ = span(x.shape[1], w.shape[0], stride, padding)
    _, left, _ = span(x.shape[2], w.shape[1], stride, padding)
    dx = np.zeros_like(x)
    partial_dw = np.zeros((min(CHUNKS, x.shape[0]), *w.shape), np.float32)
    _backward(as_float32(dy, "dy"), x, w, dx, partial_dw, stride, top, left)
    return dx, partial_dw.sum(axis=0)
