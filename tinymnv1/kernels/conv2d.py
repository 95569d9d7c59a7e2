"""The ordinary convolution as one matrix product; the mathematics and its derivation are in `tinymnv1.ops.conv2d`.

`_gather` writes what each output pixel sees into a row of KH * KW * Cin numbers (im2col); the convolution is then the
product of these rows with the weights. Backward, `_scatter` adds the rows' gradients back to the pixels they came from.
MobileNetV1 has one such convolution, its stem, with 27 numbers a row.
"""

import numpy as np
from numba import prange

from tinymnv1.kernels.compile import as_float32, gradient_of, parallel
from tinymnv1.kernels.product import multiply, multiply_transposed
from tinymnv1.ops.conv2d import Cache, check_conv2d
from tinymnv1.ops.window import Array, span


@parallel
def _gather(x, rows, kh, kw, stride, top, left):
    """rows[n, oh, ow, (i * KW + j) * Cin + c] = x[n, oh * stride + i - top, ow * stride + j - left, c], or zero."""
    height, width, cin = x.shape[1], x.shape[2], x.shape[3]
    out_h, out_w = rows.shape[1], rows.shape[2]
    for unit in prange(rows.shape[0] * out_h):
        n, oh = unit // out_h, unit % out_h
        for ow in range(out_w):
            for i in range(kh):
                h = oh * stride + i - top
                for j in range(kw):
                    v = ow * stride + j - left
                    place = (i * kw + j) * cin
                    inside = 0 <= h < height and 0 <= v < width
                    for c in range(cin):
                        rows[n, oh, ow, place + c] = x[n, h, v, c] if inside else np.float32(0)


@parallel
def _scatter(drows, dx, kh, kw, stride, top, left):
    """The transpose of `_gather`: each row's gradients are added to the pixels that the row was gathered from."""
    height, width, cin = dx.shape[1], dx.shape[2], dx.shape[3]
    for n in prange(dx.shape[0]):
        for oh in range(drows.shape[1]):
            for ow in range(drows.shape[2]):
                for i in range(kh):
                    h = oh * stride + i - top
                    if h < 0 or h >= height:
                        continue
                    for j in range(kw):
                        v = ow * stride + j - left
                        if v < 0 or v >= width:
                            continue
                        for c in range(cin):
                            dx[n, h, v, c] += drows[n, oh, ow, (i * kw + j) * cin + c]


def _gathered(x: Array, w: Array, stride: int, padding: str) -> tuple[Array, int, int]:
    """The rows (N, OH, OW, KH * KW * Cin), and the zeros above and to the left of the image."""
    kh, kw, cin, _ = w.shape
    out_h, top, _ = span(x.shape[1], kh, stride, padding)
    out_w, left, _ = span(x.shape[2], kw, stride, padding)
    rows = np.empty((x.shape[0], out_h, out_w, kh * kw * cin), np.float32)
    _gather(x, rows, kh, kw, stride, top, left)
    return rows, top, left


def conv2d_forward(x: Array, w: Array, stride: int = 1, padding: str = "symmetric") -> tuple[Array, Cache]:
    """As `tinymnv1.ops.conv2d_forward`, float32 only: x (N, H, W, Cin), w (KH, KW, Cin, Cout) -> y, cache."""
    check_conv2d(x, w)
    x, w = as_float32(x, "x"), as_float32(w, "w")
    rows, _, _ = _gathered(x, w, stride, padding)
    y = multiply(rows.reshape(-1, rows.shape[3]), w.reshape(-1, w.shape[3]))
    return y.reshape(*rows.shape[:3], w.shape[3]), (x, w, stride, padding)


def conv2d_backward(dy: Array, cache: Cache) -> tuple[Array, Array]:
    """As `tinymnv1.ops.conv2d_backward`: dy (N, OH, OW, Cout) -> dx (N, H, W, Cin), dw (KH, KW, Cin, Cout)."""
    x, w, stride, padding = cache
    kh, kw, _, cout = w.shape
    rows, top, left = _gathered(x, w, stride, padding)  # again: cheaper than keeping nine copies of the image
    dy_rows = gradient_of((*rows.shape[:3], cout), dy, "conv2d").reshape(-1, cout)
    dw = multiply_transposed(rows.reshape(-1, rows.shape[3]), dy_rows).reshape(w.shape)
    drows = multiply(dy_rows, w.reshape(-1, cout).T).reshape(rows.shape)
    dx = np.zeros_like(x)
    _scatter(drows, dx, kh, kw, stride, top, left)
    return dx, dw
