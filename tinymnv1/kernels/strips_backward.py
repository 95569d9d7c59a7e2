"""The way back of `strips.py`: dx and dw of the 3x3 depthwise convolution, in strips of four pixels of dx.

The nine pixels of dy around one of dx are multiplied by the weights for dx, and by the pixel of x for dw. The sums of
dw are loaded and stored for each strip: they stay in a cache. A strip may reach beyond its row on either side; pixels
that do not exist are zeros there, and are not stored. (Zeros that meet an infinity make a NaN, in dx or dw.)
"""

from tinymnv1.kernels.compile import serial
from tinymnv1.kernels.simd import LANES, vfma, vzero
from tinymnv1.kernels.strips import ahead, column, load, row_start, store

STRIP = 4
"""Pixels of a strip."""

ZERO_ROWS = 3
"""Rows of `channels` zeros behind the nine rows of weights."""


@serial
def _exists(i, count, inside):
    """Whether a row of so many pixels has pixel i. `inside` is None, or True: then it has, and there is no test."""
    return inside is not None or 0 <= i < count


@serial
def _taps_for_four(dy, i, ld, f, out_w, w, dw, q, idw, x0, x1, x2, x3, s0, s1, s2, s3, inside, n):
    """One row of taps for four neighbouring pixels of dx at stride 1: adds to their sums, and to dw.

    The four met six pixels of dy, of which the outer two need not exist: the first is at index i, in column f of out_w.
    q: index of the three weights, which are `ld` apart; idw + q is that of their sums in dw.  inside, n: as
    `_strip_backward` has them.
    """
    d0, d1 = column(dy, i, 0 <= f < out_w, n), column(dy, i + ld, _exists(f + 1, out_w, inside), n)
    d2 = column(dy, i + 2 * ld, _exists(f + 2, out_w, inside), n)
    d3 = column(dy, i + 3 * ld, _exists(f + 3, out_w, inside), n)
    d4 = column(dy, i + 4 * ld, _exists(f + 4, out_w, inside), n)
    d5 = column(dy, i + 5 * ld, 0 <= f + 5 < out_w, n)
    w0, w1, w2 = load(w, q, n), load(w, q + ld, n), load(w, q + 2 * ld, n)
    s0 = vfma(d0, w2, vfma(d1, w1, vfma(d2, w0, s0)))
    s1 = vfma(d1, w2, vfma(d2, w1, vfma(d3, w0, s1)))
    s2 = vfma(d2, w2, vfma(d3, w1, vfma(d4, w0, s2)))
    s3 = vfma(d3, w2, vfma(d4, w1, vfma(d5, w0, s3)))
    g = idw + q
    store(dw, g, vfma(x3, d5, vfma(x2, d4, vfma(x1, d3, vfma(x0, d2, load(dw, g, n))))), n)
    g += ld
    store(dw, g, vfma(x3, d4, vfma(x2, d3, vfma(x1, d2, vfma(x0, d1, load(dw, g, n))))), n)
    g += ld
    store(dw, g, vfma(x3, d3, vfma(x2, d2, vfma(x1, d1, vfma(x0, d0, load(dw, g, n))))), n)
    return s0, s1, s2, s3


@serial
def _taps_for_four_stride2(dy, i, ld, f, out_w, w, dw, q, idw, x0, x1, x2, x3, s0, s1, s2, s3, inside, n):
    """As `_taps_for_four`, at stride 2: the four met three pixels of dy, of which the last need not exist.

    The first of the four met column 1 of a window, the second column 0 of one and column 2 of that to its left, and so
    on.
    """
    d0, d1 = column(dy, i, _exists(f, out_w, inside), n), column(dy, i + ld, _exists(f + 1, out_w, inside), n)
    d2 = column(dy, i + 2 * ld, 0 <= f + 2 < out_w, n)
    w0, w1, w2 = load(w, q, n), load(w, q + ld, n), load(w, q + 2 * ld, n)
    s0 = vfma(d0, w1, s0)
    s1 = vfma(d0, w2, vfma(d1, w0, s1))
    s2 = vfma(d1, w1, s2)
    s3 = vfma(d1, w2, vfma(d2, w0, s3))
    g = idw + q
    store(dw, g, vfma(x3, d2, vfma(x1, d1, load(dw, g, n))), n)
    g += ld
    store(dw, g, vfma(x2, d1, vfma(x0, d0, load(dw, g, n))), n)
    g += ld
    store(dw, g, vfma(x3, d1, vfma(x1, d0, load(dw, g, n))), n)
    return s0, s1, s2, s3


@serial
def _strip_backward(dy, x, w, dx, dw, idw, window, channels, image, h, v, c0, c1, inside, n, far):
    """Four pixels of dx from (image, h, v) on, and their share of dw, for channels c0 up to c1; stride 1 or 2.

    w has ZERO_ROWS of zeros behind its nine rows, and the sums of dw, from index idw on, as many rows to spare: they
    stand for the taps that lie outside.  inside: True if all four pixels exist, else None.  n: of `load`.

    Pixel (h, v) was met by tap (i, j) of output row (h + top - i) / stride, column (v + left - j) / stride, where these
    are whole numbers. At stride 2, v + left is odd here.
    """
    _, height, width, out_h, out_w, stride, top, left = window
    row_in, row_out, nothing = width * channels, out_w * channels, 9 * channels
    place, r0, even = (image * height + h) * row_in + v * channels, (h + top) // stride, (h + top) % 2 == 0
    f = v + left - 2 if stride == 1 else (v + left - 1) // 2  # the first column of dy that they met
    first = f * channels
    i0, i1 = row_start(image, r0, out_h, row_out) + first, row_start(image, r0 - 1, out_h, row_out) + first
    i2 = row_start(image, r0 - 2, out_h, row_out) + first
    if stride == 1:
        q0, q1, q2 = 0, 3 * channels, 6 * channels
    else:
        # An even h + top was met by row 0 of output (h + top) / 2 and row 2 of the one before, an odd one by row 1.
        q0, q1, q2 = (0 if even else 3 * channels), 6 * channels, nothing
    q0 = q0 if 0 <= r0 < out_h else nothing
    q1 = q1 if 0 <= r0 - 1 < out_h else nothing
    q2 = q2 if 0 <= r0 - 2 < out_h else nothing
    in0, in1 = _exists(v, width, inside), _exists(v + 1, width, inside)
    in2, in3 = _exists(v + 2, width, inside), _exists(v + 3, width, inside)
    for c in range(c0, c1, LANES):
        if far is not None:
            ahead(x, place + row_in, 4, c)
            ahead(dx, place + row_in, 4, c)
            if stride == 1:
                ahead(dy, i0 + row_out, 4, c)
            elif even:
                ahead(dy, i0 + row_out, 2, c)
        p, s = place + c, vzero()
        x0, x1 = column(x, p, in0, n), column(x, p + channels, in1, n)
        x2, x3 = column(x, p + 2 * channels, in2, n), column(x, p + 3 * channels, in3, n)
        if stride == 1:
            s0, s1, s2, s3 = _taps_for_four(
                dy, i0 + c, channels, f, out_w, w, dw, q0 + c, idw, x0, x1, x2, x3, s, s, s, s, inside, n
            )
            s0, s1, s2, s3 = _taps_for_four(
                dy, i1 + c, channels, f, out_w, w, dw, q1 + c, idw, x0, x1, x2, x3, s0, s1, s2, s3, inside, n
            )
            s0, s1, s2, s3 = _taps_for_four(
                dy, i2 + c, channels, f, out_w, w, dw, q2 + c, idw, x0, x1, x2, x3, s0, s1, s2, s3, inside, n
            )
        else:
            s0, s1, s2, s3 = _taps_for_four_stride2(
                dy, i0 + c, channels, f, out_w, w, dw, q0 + c, idw, x0, x1, x2, x3, s, s, s, s, inside, n
            )
            if even:
                s0, s1, s2, s3 = _taps_for_four_stride2(
                    dy, i1 + c, channels, f, out_w, w, dw, q1 + c, idw, x0, x1, x2, x3, s0, s1, s2, s3, inside, n
                )
        if in0:
            store(dx, p, s0, n)
        if in1:
            store(dx, p + channels, s1, n)
        if in2:
            store(dx, p + 2 * channels, s2, n)
        if in3:
            store(dx, p + 3 * channels, s3, n)


@serial
def depthwise_row_backward(dy, x, w, dx, dw, idw, window, channels, image, h, c0, c1, far):
    """Row h of an image of dx and its share of dw, for channels c0 (a whole number of vectors) up to c1; stride 1 or 2.

    w, dw, idw: as `_strip_backward` wants them.  far: as `compile.far` gives it.
    """
    _, _, width, _, _, _, _, left = window
    whole = c1 // LANES * LANES
    v = left - 1  # At stride 2 a strip begins with a pixel that met column 1 of a window; at stride 1 `left` is 1.
    while v < width:
        if v >= 0 and v + STRIP <= width:
            _strip_backward(dy, x, w, dx, dw, idw, window, channels, image, h, v, c0, whole, True, None, far)
        else:
            _strip_backward(dy, x, w, dx, dw, idw, window, channels, image, h, v, c0, whole, None, None, far)
        if whole < c1:
            _strip_backward(dy, x, w, dx, dw, idw, window, channels, image, h, v, whole, c1, None, c1 - whole, far)
        v += STRIP
