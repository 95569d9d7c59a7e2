"""Depthwise convolution in Numba; the mathematics and its derivation are in `tinymnv1.ops.depthwise`.

The 3x3 kernel, the only one in MobileNetV1, is written with explicit vectors of LANES channels (`simd.py`). Nothing is
padded or copied: taps that fall outside the image count as zero vectors.

Forward goes through memory strip by strip (`strips.py`). Backward makes dx and dw in one pass: the same nine values of
dy around a pixel are multiplied by the weights for dx, and by the pixel for dw. Where a row is whole strips of four
pixels, it goes strip by strip, too, with the sums of dw in memory, that is in the first-level cache: as fast on long
rows, and 1.7 to 4 times as fast on rows of four and eight pixels, as the other way. That one is for all other maps, and
for few images: it keeps nine sums of dw for a block of channels in registers, slides along a row and loads only the
column that is new.

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
    gradient_of,
    parallel,
    serial,
)
from tinymnv1.kernels.simd import LANES, vadd, vfma, vmul, vzero
from tinymnv1.kernels.strips import STRIP, ZERO_ROWS, depthwise_row, load, row_start, store, strip_backward
from tinymnv1.ops.depthwise import Cache, check_depthwise
from tinymnv1.ops.window import Array, span


@serial
def _weight(w, i, inside, n):
    """A tap's weights, or zeros if its row lies outside the image: they then meet the numbers of the nearest row."""
    return load(w, i, n) if inside else vzero()


@serial
def _pixel(a, row, column, width, channels, n):
    """A block of channels of one pixel, zero to the left and right of the image. row: index of the row's first one."""
    if column < 0 or column >= width:
        return vzero()
    return load(a, row + column * channels, n)


@parallel
def _forward3(window, x, w, y, channels):
    """3x3, any stride. x, y: flat. w: as `depthwise_row` wants it."""
    _, _, _, out_h, out_w, _, _, _ = window
    whole = channels // LANES * LANES
    for r in prange(window.images * out_h):
        row = np.int64(r)
        n, oh, place = row // out_h, row % out_h, row * out_w * channels
        depthwise_row(window, x, channels, w, channels, None, None, None, y, place, channels, n, oh, 0, whole, None)
        if whole < channels:
            depthwise_row(
                window, x, channels, w, channels, None, None, None, y, place, channels, n, oh, whole, channels,
                channels - whole,
            )  # fmt: skip


@serial
def _add_to(a, i, v, n):
    """a[i : i + n] += v."""
    store(a, i, vadd(load(a, i, n), v), n)


@serial
def _backward_row3(dy, x, w, dx, dw, idw, n, h, height, width, channels, out_h, out_w, top, left, c, k):
    """Stride 1: dx[n, h] for channels from c on, and this row's share of dw (flat, from index idw on); k: n of `load`.

    Pixel (h, v) was met by tap (i, j) of output (h + top - i, v + left - j), so dx sums w[i, j] dy there over the nine
    taps, and dw[i, j] collects x[h, v] dy there.
    """
    in0, in1, in2 = 0 <= h + top < out_h, 0 <= h + top - 1 < out_h, 0 <= h + top - 2 < out_h
    row0 = row_start(n, h + top, out_h, out_w * channels) + c  # what tap row 0 met
    row1 = row_start(n, h + top - 1, out_h, out_w * channels) + c
    row2 = row_start(n, h + top - 2, out_h, out_w * channels) + c
    w00, w01 = _weight(w, c, in0, k), _weight(w, channels + c, in0, k)
    w02, w10 = _weight(w, 2 * channels + c, in0, k), _weight(w, 3 * channels + c, in1, k)
    w11, w12 = _weight(w, 4 * channels + c, in1, k), _weight(w, 5 * channels + c, in1, k)
    w20, w21 = _weight(w, 6 * channels + c, in2, k), _weight(w, 7 * channels + c, in2, k)
    w22 = _weight(w, 8 * channels + c, in2, k)
    g00, g01, g02 = vzero(), vzero(), vzero()
    g10, g11, g12 = vzero(), vzero(), vzero()
    g20, g21, g22 = vzero(), vzero(), vzero()
    # Columns of dy: a for tap column 2, b for 1, d for 0.
    a0, a1, a2 = vzero(), vzero(), vzero()
    b0 = _pixel(dy, row0, left - 2, out_w, channels, k)
    b1 = _pixel(dy, row1, left - 2, out_w, channels, k)
    b2 = _pixel(dy, row2, left - 2, out_w, channels, k)
    d0 = _pixel(dy, row0, left - 1, out_w, channels, k)
    d1 = _pixel(dy, row1, left - 1, out_w, channels, k)
    d2 = _pixel(dy, row2, left - 1, out_w, channels, k)
    place = (n * height + h) * width * channels + c
    for v in range(width):
        a0, a1, a2, b0, b1, b2 = b0, b1, b2, d0, d1, d2
        d0 = _pixel(dy, row0, v + left, out_w, channels, k)
        d1 = _pixel(dy, row1, v + left, out_w, channels, k)
        d2 = _pixel(dy, row2, v + left, out_w, channels, k)
        s0 = vfma(d0, w00, vfma(b0, w01, vmul(a0, w02)))
        s1 = vfma(d1, w10, vfma(b1, w11, vmul(a1, w12)))
        s2 = vfma(d2, w20, vfma(b2, w21, vmul(a2, w22)))
        store(dx, place, vadd(s0, vadd(s1, s2)), k)
        xv = load(x, place, k)
        g00, g01, g02 = vfma(xv, d0, g00), vfma(xv, b0, g01), vfma(xv, a0, g02)
        g10, g11, g12 = vfma(xv, d1, g10), vfma(xv, b1, g11), vfma(xv, a1, g12)
        g20, g21, g22 = vfma(xv, d2, g20), vfma(xv, b2, g21), vfma(xv, a2, g22)
        place += channels
    idw += c
    if in0:
        _add_to(dw, idw, g00, k)
        _add_to(dw, idw + channels, g01, k)
        _add_to(dw, idw + 2 * channels, g02, k)
    if in1:
        _add_to(dw, idw + 3 * channels, g10, k)
        _add_to(dw, idw + 4 * channels, g11, k)
        _add_to(dw, idw + 5 * channels, g12, k)
    if in2:
        _add_to(dw, idw + 6 * channels, g20, k)
        _add_to(dw, idw + 7 * channels, g21, k)
        _add_to(dw, idw + 8 * channels, g22, k)


@serial
def _backward_stride2_row3(dy, x, w, dx, dw, idw, n, h, height, width, channels, out_h, out_w, top, left, c, k):
    """Stride 2: as `_backward_row3`.

    With h' = h + top and v' = v + left, tap (i, j) of output (r, u) met pixel h' = 2 r + i, v' = 2 u + j. So an even h'
    was met by row 0 of output h' / 2 and by row 2 of the one before, an odd h' by row 1 alone; columns likewise. `a` is
    the nearer of the two output rows, `b` the one before it, or zeros for an odd h'.
    """
    even = (h + top) % 2 == 0
    ra, rb = (h + top) // 2, (h + top) // 2 - 1
    in_a, in_b = ra < out_h, even and 0 <= rb < out_h
    width_b = out_w if in_b else 0  # a row that did not meet this one has no pixels, whatever lies there
    ia, ib = (0 if even else 1), 2
    row_a, row_b = row_start(n, ra, out_h, out_w * channels) + c, row_start(n, rb, out_h, out_w * channels) + c
    iwa, iwb = 3 * ia * channels + c, 3 * ib * channels + c
    wa0, wb0 = _weight(w, iwa, in_a, k), _weight(w, iwb, in_b, k)
    wa1, wb1 = _weight(w, iwa + channels, in_a, k), _weight(w, iwb + channels, in_b, k)
    wa2, wb2 = _weight(w, iwa + 2 * channels, in_a, k), _weight(w, iwb + 2 * channels, in_b, k)
    ga0, ga1, ga2, gb0, gb1, gb2 = vzero(), vzero(), vzero(), vzero(), vzero(), vzero()
    a0, b0 = vzero(), vzero()
    row = (n * height + h) * width * channels + c
    for u in range((width + left + 1) // 2):
        a1, b1 = a0, b0  # the output one column to the left
        a0, b0 = _pixel(dy, row_a, u, out_w, channels, k), _pixel(dy, row_b, u, width_b, channels, k)
        v = 2 * u - left
        if v >= 0:  # v' = 2 u: column 0 of this output, column 2 of the one to the left
            place = row + v * channels
            store(dx, place, vadd(vfma(a0, wa0, vmul(b0, wb0)), vfma(a1, wa2, vmul(b1, wb2))), k)
            xv = load(x, place, k)
            ga0, gb0 = vfma(xv, a0, ga0), vfma(xv, b0, gb0)
            ga2, gb2 = vfma(xv, a1, ga2), vfma(xv, b1, gb2)
        if v + 1 < width:  # v' = 2 u + 1: column 1
            place = row + (v + 1) * channels
            store(dx, place, vfma(a0, wa1, vmul(b0, wb1)), k)
            xv = load(x, place, k)
            ga1, gb1 = vfma(xv, a0, ga1), vfma(xv, b0, gb1)
    if in_a:
        _add_to(dw, idw + iwa, ga0, k)
        _add_to(dw, idw + iwa + channels, ga1, k)
        _add_to(dw, idw + iwa + 2 * channels, ga2, k)
    if in_b:
        _add_to(dw, idw + iwb, gb0, k)
        _add_to(dw, idw + iwb + channels, gb1, k)
        _add_to(dw, idw + iwb + 2 * channels, gb2, k)


@serial
def _backward_block(dy, x, w, dx, dw, idw, n, h, height, width, channels, out_h, out_w, stride, top, left, c, k):
    """One row of dx and one block of channels."""
    if stride == 1:
        _backward_row3(dy, x, w, dx, dw, idw, n, h, height, width, channels, out_h, out_w, top, left, c, k)
    else:
        _backward_stride2_row3(dy, x, w, dx, dw, idw, n, h, height, width, channels, out_h, out_w, top, left, c, k)


@parallel
def _backward3(dy, x, w, dx, dw, chunks, groups, images, height, width, channels, out_h, out_w, stride, top, left):
    """Stride 1 or 2. A unit of work is a chunk of the images, and one of `groups` equal shares of the channel blocks.

    dw: (chunks, 9 + ZERO_ROWS, C), flat: each chunk has its own sum, and rows to spare, which are not used here.
    """
    blocks = (channels + LANES - 1) // LANES
    for unit in prange(chunks * groups):
        chunk, group = unit // groups, unit % groups
        idw = chunk * (9 + ZERO_ROWS) * channels
        for n in range(chunk * images // chunks, (chunk + 1) * images // chunks):
            for h in range(height):
                for block in range(group * blocks // groups, (group + 1) * blocks // groups):
                    c = block * LANES
                    k = channels - c
                    if k >= LANES:
                        _backward_block(
                            dy, x, w, dx, dw, idw, n, h, height, width, channels, out_h, out_w, stride, top, left, c,
                            None,
                        )  # fmt: skip
                    else:
                        _backward_block(
                            dy, x, w, dx, dw, idw, n, h, height, width, channels, out_h, out_w, stride, top, left, c, k
                        )


@parallel
def _backward_strips(dy, x, w, dx, dw, chunks, images, height, width, channels, out_h, out_w, stride):
    """As `_backward3`, for a width of whole strips and a padding of one pixel. dw: (chunks, 9 + ZERO_ROWS, C), flat."""
    whole = channels // LANES * LANES
    for unit in prange(chunks):
        chunk = np.int64(unit)
        idw = chunk * (9 + ZERO_ROWS) * channels
        for n in range(chunk * images // chunks, (chunk + 1) * images // chunks):
            for h in range(height):
                for v in range(0, width, STRIP):
                    strip_backward(
                        dy, x, w, dx, dw, idw, n, h, height, width, channels, out_h, out_w, stride, v, 0, whole, None
                    )
                    if whole < channels:
                        strip_backward(
                            dy, x, w, dx, dw, idw, n, h, height, width, channels, out_h, out_w, stride, v, whole,
                            channels, channels - whole,
                        )  # fmt: skip


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
        weights = aligned_zeros(w.size + ZERO_ROWS * channels)
        weights[: w.size] = w.reshape(-1)
        _forward3(window, x.reshape(-1), weights, y, channels)
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
    chunks = min(CHUNKS, x.shape[0])
    taps, channels = w.shape[0] * w.shape[1], w.shape[2]
    rows = taps + ZERO_ROWS  # of a chunk's sums
    partial_dw, dw = aligned_zeros(chunks * rows * channels), aligned_like(w)
    if w.shape[:2] == (3, 3) and stride <= 2:
        dx, weights = aligned_like(x), aligned_zeros(rows * channels)
        weights[: w.size] = w.reshape(-1)
        flat = (a.reshape(-1) for a in (dy, x, weights, dx, partial_dw))
        if x.shape[2] % STRIP == 0 and (top, left) == (1, 1) and chunks == CHUNKS:
            _backward_strips(*flat, chunks, *x.shape, *dy.shape[1:3], stride)
        else:
            groups = min(-(-channels // LANES), CHUNKS // chunks)  # few images: share the channels out as well
            _backward3(*flat, chunks, groups, *x.shape, *dy.shape[1:3], stride, top, left)
    else:
        dx = np.zeros_like(x)
        partial = partial_dw.reshape(chunks, rows, channels)[:, :taps].reshape(chunks, *w.shape)
        _backward_any(dy, x, w, dx, partial, stride, top, left)
    sum_chunks(partial_dw, chunks, rows * channels, channels, taps, channels, dw.reshape(-1))
    return dx, dw
