"""The 3x3 depthwise convolution strip by strip: forward for the layers and the inference engine, backward for layers.

It goes through memory in order: for a strip of four neighbouring outputs (two at stride 2), all channels one vector
after the other. The strip shares its pixels and its weights: at stride 1, 18 pixels and 9 weights are loaded for 36
multiply-adds. To keep the weights of one vector of channels in registers and slide along the row loads less, but
touches one cache line of every pixel and comes back for the next one later; that was up to three times as slow.

In order, but on some twenty places at once, a few lines at each: the processor does not see what comes next, and waits
for memory most of the time. So where the arrays are larger than the caches (`far`), a strip asks for what the strip
below it will read and write first, a line or two for each vector of channels; twice as fast. To ask for all of a strip
before its loop gains half of that. Where the arrays are in the cache anyway, to ask costs a tenth or more.

Nothing is padded or copied. Above and below the image the weights are zeros, which lie behind the nine rows of real
ones, and the pixels are those of the nearest row (where that row holds an infinity, a NaN comes of it); left and right
of it the pixels are zeros.
"""

from tinymnv1.kernels.compile import serial
from tinymnv1.kernels.simd import LANES, prefetch, vclip, vfma, vload, vload_tail, vstore, vstore_tail, vzero
from tinymnv1.ops.window import Array

STRIP = 4
"""Pixels of a strip on the way back."""

ZERO_ROWS = 3
"""Rows of `channels` zeros behind the nine rows of weights."""

LINE = 16
"""Floats of a cache line."""

FAR_BYTES = 1 << 23
"""Arrays of more than so many bytes are expected in memory, not in a cache."""


def far(*arrays: Array) -> bool | None:
    """True if these arrays are too many bytes for the caches, else None: Numba compiles a version for each."""
    return True if sum(a.nbytes for a in arrays) > FAR_BYTES else None


@serial
def load(a, i, n):
    """LANES channels from index i on; n is None, or the number of them that exist at the end of the channels.

    Numba compiles a function anew for each type of its arguments, and None is a type: there are two versions of what
    calls this, and the one for whole vectors has no test in it.
    """
    if n is None:
        return vload(a, i)
    return vload_tail(a, i, n)


@serial
def store(a, i, v, n):
    """The counterpart of `load`."""
    if n is None:
        vstore(a, i, v)
    else:
        vstore_tail(a, i, v, n)


@serial
def row_start(n, row, rows, row_size):
    """Index of the first number of row `row` of image n; of the nearest row if the image has no such row."""
    return (n * rows + min(max(row, 0), rows - 1)) * row_size


@serial
def _ahead(a, i, pixels, c):
    """Ask for the lines of so many pixels from index i on, a share at each vector of channels c. a: flat."""
    for j in range(0, pixels * LANES, LINE):
        prefetch(a, i + pixels * c + j)


@serial
def _begin(bias, c):
    if bias is None:
        return vzero()
    return vload(bias, c)


@serial
def _finish(v, bias, low, high):
    if bias is None:
        return v
    return vclip(v, low, high)


@serial
def _column(x, i, inside, n):
    """A block of channels of one pixel, or zeros where there is no such pixel and x must not be read. n: of `load`."""
    return load(x, i, n) if inside else vzero()


@serial
def _add_four(x, i, ldx, w, q, ldw, left, right, s0, s1, s2, s3):
    """Add one row of the window to four neighbouring outputs, stride 1: they share six pixels and three weights."""
    w0, w1, w2 = vload(w, q), vload(w, q + ldw), vload(w, q + 2 * ldw)
    x0, x1, x2 = _column(x, i, left, None), vload(x, i + ldx), vload(x, i + 2 * ldx)
    x3, x4, x5 = vload(x, i + 3 * ldx), vload(x, i + 4 * ldx), _column(x, i + 5 * ldx, right, None)
    s0 = vfma(x2, w2, vfma(x1, w1, vfma(x0, w0, s0)))
    s1 = vfma(x3, w2, vfma(x2, w1, vfma(x1, w0, s1)))
    s2 = vfma(x4, w2, vfma(x3, w1, vfma(x2, w0, s2)))
    s3 = vfma(x5, w2, vfma(x4, w1, vfma(x3, w0, s3)))
    return s0, s1, s2, s3


@serial
def _strip_of_four(
    x, i0, i1, i2, ldx, w, q0, q1, q2, ldw, bias, low, high, y, iy, ldy, c0, c1, left, right, row_in, row_out, far
):
    """Four outputs at stride 1.

    i0, i1, i2: index of the window's leftmost pixel in its three rows; q0, q1, q2: of the weights for them.
    left, right: whether the strip's first and last column of pixels lie inside the image.
    row_in, row_out: the distance of two rows of x and of y.  far: as the function of that name says.
    """
    for c in range(c0, c1, LANES):
        if far is not None:
            _ahead(x, i2 + row_in, 4, c)
            _ahead(y, iy + row_out, 4, c)
        s = _begin(bias, c)
        s0, s1, s2, s3 = _add_four(x, i0 + c, ldx, w, q0 + c, ldw, left, right, s, s, s, s)
        s0, s1, s2, s3 = _add_four(x, i1 + c, ldx, w, q1 + c, ldw, left, right, s0, s1, s2, s3)
        s0, s1, s2, s3 = _add_four(x, i2 + c, ldx, w, q2 + c, ldw, left, right, s0, s1, s2, s3)
        vstore(y, iy + c, _finish(s0, bias, low, high))
        vstore(y, iy + ldy + c, _finish(s1, bias, low, high))
        vstore(y, iy + 2 * ldy + c, _finish(s2, bias, low, high))
        vstore(y, iy + 3 * ldy + c, _finish(s3, bias, low, high))


@serial
def _add_two(x, i, ldx, w, q, ldw, stride, left, right, s0, s1):
    """As `_add_four`, for two outputs at stride 1 or 2."""
    w0, w1, w2 = vload(w, q), vload(w, q + ldw), vload(w, q + 2 * ldw)
    x0, x1, x2 = _column(x, i, left, None), vload(x, i + ldx), vload(x, i + 2 * ldx)
    s0 = vfma(x2, w2, vfma(x1, w1, vfma(x0, w0, s0)))
    if stride == 1:
        x3 = _column(x, i + 3 * ldx, right, None)
        s1 = vfma(x3, w2, vfma(x2, w1, vfma(x1, w0, s1)))
    else:
        x3, x4 = vload(x, i + 3 * ldx), _column(x, i + 4 * ldx, right, None)
        s1 = vfma(x4, w2, vfma(x3, w1, vfma(x2, w0, s1)))
    return s0, s1


@serial
def _strip_of_two(
    x, i0, i1, i2, ldx, w, q0, q1, q2, ldw, bias, low, high, y, iy, ldy, c0, c1, stride, left, right, row_in, row_out,
    far,
):  # fmt: skip
    """As `_strip_of_four`, for two outputs at stride 1 or 2."""
    for c in range(c0, c1, LANES):
        if far is not None:
            _ahead(x, i2 + row_in, 4, c)
            if stride == 2:
                _ahead(x, i2 + 2 * row_in, 4, c)
            _ahead(y, iy + row_out, 2, c)
        s = _begin(bias, c)
        s0, s1 = _add_two(x, i0 + c, ldx, w, q0 + c, ldw, stride, left, right, s, s)
        s0, s1 = _add_two(x, i1 + c, ldx, w, q1 + c, ldw, stride, left, right, s0, s1)
        s0, s1 = _add_two(x, i2 + c, ldx, w, q2 + c, ldw, stride, left, right, s0, s1)
        vstore(y, iy + c, _finish(s0, bias, low, high))
        vstore(y, iy + ldy + c, _finish(s1, bias, low, high))


@serial
def _one_output(x, i0, i1, i2, ldx, w, q0, q1, q2, ldw, bias, low, high, y, iy, c0, c1, v, width, k):
    """One output of any stride; k: n of `load`. i0, i1, i2: index of the rows; v: the window's leftmost column."""
    in0, in1, in2 = 0 <= v < width, 0 <= v + 1 < width, 0 <= v + 2 < width
    v0, v1, v2 = v * ldx, (v + 1) * ldx, (v + 2) * ldx
    for c in range(c0, c1, LANES):
        s = _begin(bias, c)
        for i, q in ((i0, q0), (i1, q1), (i2, q2)):
            s = vfma(_column(x, i + v0 + c, in0, k), load(w, q + c, k), s)
            s = vfma(_column(x, i + v1 + c, in1, k), load(w, q + ldw + c, k), s)
            s = vfma(_column(x, i + v2 + c, in2, k), load(w, q + 2 * ldw + c, k), s)
        store(y, iy + c, _finish(s, bias, low, high), k)


@serial
def depthwise_row(window, x, ldx, w, ldw, bias, low, high, y, iy, ldy, n, oh, c0, c1, k, far):
    """Output row oh of image n, channels c0 up to c1.

    x, w, y: flat; ldx, ldw, ldy: the distance of their pixels.  w: nine rows of weights, and ZERO_ROWS of zeros.
    bias: None, or (channels,) to add before the sum is limited to the vectors low and high.
    iy: index of the row's first number in y.  k: None for whole vectors of channels, else n of `load`.
    far: as the function of that name says.

    The last strip is moved back until it fits, and computes again some of what the one before it has computed.
    """
    _, height, width, _, out_w, stride, top, left = window
    first, nothing = oh * stride - top, 9 * ldw
    in0, in1, in2 = 0 <= first < height, 0 <= first + 1 < height, 0 <= first + 2 < height
    row0 = row_start(n, first, height, width * ldx)
    row1 = row_start(n, first + 1, height, width * ldx)
    row2 = row_start(n, first + 2, height, width * ldx)
    q0, q1, q2 = (0 if in0 else nothing), (3 * ldw if in1 else nothing), (6 * ldw if in2 else nothing)
    strip = 1
    if k is None and stride <= 2 and out_w >= 2 and width >= 2:
        strip = 4 if stride == 1 and out_w >= 4 and width >= 4 else 2
    ow = 0
    while ow < out_w:
        ow = min(ow, out_w - strip)
        v, p = ow * stride - left, iy + ow * ldy
        i0, i1, i2 = row0 + v * ldx, row1 + v * ldx, row2 + v * ldx
        in_left, in_right = v >= 0, v + (strip - 1) * stride + 2 < width
        if strip == 4:
            _strip_of_four(
                x, i0, i1, i2, ldx, w, q0, q1, q2, ldw, bias, low, high, y, p, ldy, c0, c1, in_left, in_right,
                width * ldx, out_w * ldy, far,
            )  # fmt: skip
        elif strip == 2:
            _strip_of_two(
                x, i0, i1, i2, ldx, w, q0, q1, q2, ldw, bias, low, high, y, p, ldy, c0, c1, stride, in_left, in_right,
                width * ldx, out_w * ldy, far,
            )  # fmt: skip
        else:
            _one_output(
                x, row0, row1, row2, ldx, w, q0, q1, q2, ldw, bias, low, high, y, p, c0, c1, v, width, k
            )  # fmt: skip
        ow += strip


@serial
def _left(k, count):
    """n of `load`: None where k is, else `count`."""
    if k is None:
        return None
    return count


@serial
def _exists(column, columns, k):
    """Whether a row has this column. Where k is None, it is one that it has: there is no test then."""
    return k is None or 0 <= column < columns


@serial
def _first_met(v, stride, left):
    """Column of the first of the pixels of dy that a strip from column v on met (at stride 2, v + left is odd)."""
    return v + left - 2 if stride == 1 else (v + left - 1) // 2


@serial
def _taps_for_four(dy, i, ld, f, columns, w, dw, q, idw, x0, x1, x2, x3, s0, s1, s2, s3, k):
    """One row of taps for four neighbouring pixels of dx at stride 1: adds to their sums, and to dw.

    The four met six pixels of dy: the first is at index i and in column f of `columns`, which may not exist.
    q: index of the three weights, which are `ld` apart; idw + q is that of their sums in dw.
    """
    d0, d1 = _column(dy, i, 0 <= f < columns, k), _column(dy, i + ld, _exists(f + 1, columns, k), k)
    d2 = _column(dy, i + 2 * ld, _exists(f + 2, columns, k), k)
    d3 = _column(dy, i + 3 * ld, _exists(f + 3, columns, k), k)
    d4 = _column(dy, i + 4 * ld, _exists(f + 4, columns, k), k)
    d5 = _column(dy, i + 5 * ld, 0 <= f + 5 < columns, k)
    w0, w1, w2 = load(w, q, k), load(w, q + ld, k), load(w, q + 2 * ld, k)
    s0 = vfma(d0, w2, vfma(d1, w1, vfma(d2, w0, s0)))
    s1 = vfma(d1, w2, vfma(d2, w1, vfma(d3, w0, s1)))
    s2 = vfma(d2, w2, vfma(d3, w1, vfma(d4, w0, s2)))
    s3 = vfma(d3, w2, vfma(d4, w1, vfma(d5, w0, s3)))
    g = idw + q
    store(dw, g, vfma(x3, d5, vfma(x2, d4, vfma(x1, d3, vfma(x0, d2, load(dw, g, k))))), k)
    g += ld
    store(dw, g, vfma(x3, d4, vfma(x2, d3, vfma(x1, d2, vfma(x0, d1, load(dw, g, k))))), k)
    g += ld
    store(dw, g, vfma(x3, d3, vfma(x2, d2, vfma(x1, d1, vfma(x0, d0, load(dw, g, k))))), k)
    return s0, s1, s2, s3


@serial
def _taps_for_four_stride2(dy, i, ld, f, columns, w, dw, q, idw, x0, x1, x2, x3, s0, s1, s2, s3, k):
    """As `_taps_for_four`, at stride 2, of which the first pixel met column 1 of a window, the second column 0 of one
    and column 2 of that to its left, and so on: three pixels of dy."""
    d0, d1 = _column(dy, i, _exists(f, columns, k), k), _column(dy, i + ld, _exists(f + 1, columns, k), k)
    d2 = _column(dy, i + 2 * ld, 0 <= f + 2 < columns, k)
    w0, w1, w2 = load(w, q, k), load(w, q + ld, k), load(w, q + 2 * ld, k)
    s0 = vfma(d0, w1, s0)
    s1 = vfma(d0, w2, vfma(d1, w0, s1))
    s2 = vfma(d1, w1, s2)
    s3 = vfma(d1, w2, vfma(d2, w0, s3))
    g = idw + q
    store(dw, g, vfma(x3, d2, vfma(x1, d1, load(dw, g, k))), k)
    g += ld
    store(dw, g, vfma(x2, d1, vfma(x0, d0, load(dw, g, k))), k)
    g += ld
    store(dw, g, vfma(x3, d1, vfma(x1, d0, load(dw, g, k))), k)
    return s0, s1, s2, s3


@serial
def _strip_backward(dy, x, w, dx, dw, idw, window, channels, n, h, v, c0, c1, k, far):
    """Four pixels of dx from (n, h, v) on, and their share of dw, for channels c0 up to c1; stride 1 or 2.

    w has ZERO_ROWS of zeros behind its nine rows, and the sums of dw, from index idw on, as many rows to spare: they
    stand for the taps that lie outside. k: None, for whole vectors of channels and pixels that lie inside; or a number,
    where neither need be true.

    Pixel (h, v) was met by tap (i, j) of output row (h + top - i) / stride, column (v + left - j) / stride, where these
    are whole numbers. At stride 2, v + left is odd here.
    """
    _, height, width, out_h, out_w, stride, top, left = window
    place, row = ((n * height + h) * width + v) * channels, out_w * channels
    even, nothing = (h + top) % 2 == 0, 9 * channels
    r0 = (h + top) // stride
    f = _first_met(v, stride, left)
    first = f * channels
    i0, i1 = row_start(n, r0, out_h, row) + first, row_start(n, r0 - 1, out_h, row) + first
    i2 = row_start(n, r0 - 2, out_h, row) + first
    if stride == 1:
        q0, q1, q2 = 0, 3 * channels, 6 * channels
    else:
        # An even h + top was met by row 0 of output (h + top) / 2 and row 2 of the one before, an odd one by row 1.
        q0, q1, q2 = (0 if even else 3 * channels), 6 * channels, nothing
    q0 = q0 if 0 <= r0 < out_h else nothing
    q1 = q1 if 0 <= r0 - 1 < out_h else nothing
    q2 = q2 if 0 <= r0 - 2 < out_h else nothing
    in0, in1 = _exists(v, width, k), _exists(v + 1, width, k)
    in2, in3 = _exists(v + 2, width, k), _exists(v + 3, width, k)
    for c in range(c0, c1, LANES):
        p, m = place + c, _left(k, c1 - c)
        if far is not None:
            _ahead(x, place + width * channels, 4, c)
            _ahead(dx, place + width * channels, 4, c)
            if stride == 1:
                _ahead(dy, i0 + row, 4, c)
            elif even:
                _ahead(dy, i0 + row, 2, c)
        x0, x1 = _column(x, p, in0, m), _column(x, p + channels, in1, m)
        x2, x3 = _column(x, p + 2 * channels, in2, m), _column(x, p + 3 * channels, in3, m)
        s = vzero()
        if stride == 1:
            s0, s1, s2, s3 = _taps_for_four(
                dy, i0 + c, channels, f, out_w, w, dw, q0 + c, idw, x0, x1, x2, x3, s, s, s, s, m
            )
            s0, s1, s2, s3 = _taps_for_four(
                dy, i1 + c, channels, f, out_w, w, dw, q1 + c, idw, x0, x1, x2, x3, s0, s1, s2, s3, m
            )
            s0, s1, s2, s3 = _taps_for_four(
                dy, i2 + c, channels, f, out_w, w, dw, q2 + c, idw, x0, x1, x2, x3, s0, s1, s2, s3, m
            )
        else:
            s0, s1, s2, s3 = _taps_for_four_stride2(
                dy, i0 + c, channels, f, out_w, w, dw, q0 + c, idw, x0, x1, x2, x3, s, s, s, s, m
            )
            if even:
                s0, s1, s2, s3 = _taps_for_four_stride2(
                    dy, i1 + c, channels, f, out_w, w, dw, q1 + c, idw, x0, x1, x2, x3, s0, s1, s2, s3, m
                )
        if in0:
            store(dx, p, s0, m)
        if in1:
            store(dx, p + channels, s1, m)
        if in2:
            store(dx, p + 2 * channels, s2, m)
        if in3:
            store(dx, p + 3 * channels, s3, m)


@serial
def depthwise_row_backward(dy, x, w, dx, dw, idw, window, channels, n, h, c0, c1, far):
    """Row h of image n of dx and its share of dw, for channels c0 (a whole number of vectors) up to c1; stride 1 or 2.

    w, dw, idw: as `_strip_backward` wants them.  far: as the function of that name says. Where all four pixels of a
    strip lie inside, and all that they met but the outermost, it goes through whole vectors of channels without a test.
    """
    _, _, width, _, out_w, stride, _, left = window
    whole = c1 // LANES * LANES
    v = 0 if stride == 1 or left == 1 else -1
    while v < width:
        f = _first_met(v, stride, left)
        low, high = (f + 1, f + 4) if stride == 1 else (f, f + 1)
        c = c0
        if v >= 0 and v + STRIP <= width and low >= 0 and high < out_w:
            _strip_backward(dy, x, w, dx, dw, idw, window, channels, n, h, v, c0, whole, None, far)
            c = whole
        if c < c1:
            _strip_backward(dy, x, w, dx, dw, idw, window, channels, n, h, v, c, c1, 0, far)
        v += STRIP
