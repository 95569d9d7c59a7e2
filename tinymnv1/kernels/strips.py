"""The 3x3 depthwise convolution strip by strip, for layers and the inference engine; `strips_backward.py` goes back.

It goes through memory in order: for a strip of four neighbouring outputs (two at stride 2), all channels one vector
after the other. The strip shares its pixels and its weights: at stride 1, 18 pixels and 9 weights are loaded for 36
multiply-adds. To keep the weights of one vector of channels in registers and slide along the row loads less, but
touches one cache line of every pixel and comes back for the next one later; that was up to three times as slow.

In order, but at some twenty places at once, a few lines at each: the processor does not see what comes next, and waits
for memory most of the time. So where the arrays are many bytes (`compile.far`), a strip asks ahead for what the strip
below it will be the first to read and write, a few lines at each vector of channels. On AVX2 (Zen 3) that made it twice
as fast; to ask for all of them before the loop gained half of that. Where the arrays are in a cache, to ask costs a
tenth or more.

No image is padded or copied. Above and below it the weights are zeros, which lie behind the nine real ones, and the
pixels are those of the nearest row (where that row holds an infinity, a NaN comes of it); left and right of it the
pixels are zeros. The weights are copied, vector by vector of channels (`packed_filter`): nine rows of 1,024 channels
would share one set of the first-level cache with the pixels, and push each other out of it.
"""

from tinymnv1.kernels.compile import LINE_FLOATS, aligned_zeros, serial
from tinymnv1.kernels.simd import LANES, prefetch, vclip, vfma, vload, vload_tail, vstore, vstore_tail, vzero
from tinymnv1.ops.window import Array

WEIGHTS, ZEROS = 9, 3
"""Vectors of weights that a vector of channels has, row by row of the window, and vectors of zeros behind them."""


def packed_filter(w: Array) -> Array:
    """w (3, 3, C) as `depthwise_row` reads it: flat, for each vector of channels its WEIGHTS, then ZEROS."""
    channels, whole = w.shape[2], w.shape[2] // LANES * LANES
    rows, filters = w.reshape(WEIGHTS, channels), -(-channels // LANES)
    packed = aligned_zeros(filters * (WEIGHTS + ZEROS) * LANES)
    taps = packed.reshape(filters, WEIGHTS + ZEROS, LANES)[:, :WEIGHTS]
    taps[: whole // LANES] = rows[:, :whole].reshape(WEIGHTS, -1, LANES).swapaxes(0, 1)
    taps[whole // LANES :, :, : channels - whole] = rows[:, whole:]
    return packed


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
def ahead(a, i, pixels, c):
    """Ask for the lines of so many pixels from index i on, a share at each vector of channels c. a: flat."""
    for j in range(0, pixels * LANES, LINE_FLOATS):
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
def column(x, i, inside, n):
    """A block of channels of one pixel, or zeros where there is no such pixel and x must not be read. n: of `load`."""
    return load(x, i, n) if inside else vzero()


@serial
def _add_four(x, i, ldx, w, q, left, right, s0, s1, s2, s3):
    """Add one row of the window to four neighbouring outputs, stride 1: they share six pixels and three weights."""
    w0, w1, w2 = vload(w, q), vload(w, q + LANES), vload(w, q + 2 * LANES)
    x0, x1, x2 = column(x, i, left, None), vload(x, i + ldx), vload(x, i + 2 * ldx)
    x3, x4, x5 = vload(x, i + 3 * ldx), vload(x, i + 4 * ldx), column(x, i + 5 * ldx, right, None)
    s0 = vfma(x2, w2, vfma(x1, w1, vfma(x0, w0, s0)))
    s1 = vfma(x3, w2, vfma(x2, w1, vfma(x1, w0, s1)))
    s2 = vfma(x4, w2, vfma(x3, w1, vfma(x2, w0, s2)))
    s3 = vfma(x5, w2, vfma(x4, w1, vfma(x3, w0, s3)))
    return s0, s1, s2, s3


@serial
def _strip_of_four(
    x, i0, i1, i2, ldx, w, q0, q1, q2, bias, low, high, y, iy, ldy, c0, c1, left, right, x_below, y_below, far
):
    """Four outputs at stride 1.

    i0, i1, i2: index of the window's leftmost pixel in its three rows; q0, q1, q2: of the weights for them.
    left, right: whether the strip's first and last column of pixels lie inside the image.
    x_below, y_below: index of what the strip below is the first to read and write.  far: as `compile.far` gives it.
    """
    for c in range(c0, c1, LANES):
        if far is not None:
            ahead(x, x_below, 4, c)
            ahead(y, y_below, 4, c)
        s, f = _begin(bias, c), c * (WEIGHTS + ZEROS)
        s0, s1, s2, s3 = _add_four(x, i0 + c, ldx, w, q0 + f, left, right, s, s, s, s)
        s0, s1, s2, s3 = _add_four(x, i1 + c, ldx, w, q1 + f, left, right, s0, s1, s2, s3)
        s0, s1, s2, s3 = _add_four(x, i2 + c, ldx, w, q2 + f, left, right, s0, s1, s2, s3)
        vstore(y, iy + c, _finish(s0, bias, low, high))
        vstore(y, iy + ldy + c, _finish(s1, bias, low, high))
        vstore(y, iy + 2 * ldy + c, _finish(s2, bias, low, high))
        vstore(y, iy + 3 * ldy + c, _finish(s3, bias, low, high))


@serial
def _edge(x, i, inward, inside):
    """As `column`, for whole vectors, and without a branch: where there is no such pixel, a masked load of no lanes.

    With branches, LLVM loads the window of a strip of two before it multiplies, and spills it: that took 1.3 times as
    long. A strip of four is no faster without them. inward: from here to the next pixel, which exists, since even the
    address of a masked load should.
    """
    return vload_tail(x, i if inside else i + inward, LANES if inside else 0)


@serial
def _add_two(x, i, ldx, w, q, stride, left, right, s0, s1):
    """As `_add_four`, for two outputs; stride 1 if that is None, else 2."""
    w0, w1, w2 = vload(w, q), vload(w, q + LANES), vload(w, q + 2 * LANES)
    x0, x1, x2 = _edge(x, i, ldx, left), vload(x, i + ldx), vload(x, i + 2 * ldx)
    s0 = vfma(x2, w2, vfma(x1, w1, vfma(x0, w0, s0)))
    if stride is None:
        x3 = _edge(x, i + 3 * ldx, -ldx, right)
        s1 = vfma(x3, w2, vfma(x2, w1, vfma(x1, w0, s1)))
    else:
        x3, x4 = vload(x, i + 3 * ldx), _edge(x, i + 4 * ldx, -ldx, right)
        s1 = vfma(x4, w2, vfma(x3, w1, vfma(x2, w0, s1)))
    return s0, s1


@serial
def _strip_of_two(
    x, i0, i1, i2, ldx, w, q0, q1, q2, bias, low, high, y, iy, ldy, c0, c1, stride, left, right, x_below, y_below,
    row, far,
):  # fmt: skip
    """As `_strip_of_four`, for two outputs; stride: of `_add_two`. row: the distance of two rows of x."""
    for c in range(c0, c1, LANES):
        if far is not None:
            ahead(x, x_below, 4, c)
            if stride is not None:
                ahead(x, x_below + row, 4, c)
            ahead(y, y_below, 2, c)
        s, f = _begin(bias, c), c * (WEIGHTS + ZEROS)
        s0, s1 = _add_two(x, i0 + c, ldx, w, q0 + f, stride, left, right, s, s)
        s0, s1 = _add_two(x, i1 + c, ldx, w, q1 + f, stride, left, right, s0, s1)
        s0, s1 = _add_two(x, i2 + c, ldx, w, q2 + f, stride, left, right, s0, s1)
        vstore(y, iy + c, _finish(s0, bias, low, high))
        vstore(y, iy + ldy + c, _finish(s1, bias, low, high))


@serial
def _one_output(x, i0, i1, i2, ldx, w, q0, q1, q2, bias, low, high, y, iy, c0, c1, v, width, n):
    """One output of any stride; n: of `load`. i0, i1, i2: index of the rows; v: the window's leftmost column."""
    in0, in1, in2 = 0 <= v < width, 0 <= v + 1 < width, 0 <= v + 2 < width
    v0, v1, v2 = v * ldx, (v + 1) * ldx, (v + 2) * ldx
    for c in range(c0, c1, LANES):
        s, f = _begin(bias, c), c * (WEIGHTS + ZEROS)
        for i, q in ((i0, q0), (i1, q1), (i2, q2)):
            s = vfma(column(x, i + v0 + c, in0, n), vload(w, q + f), s)
            s = vfma(column(x, i + v1 + c, in1, n), vload(w, q + f + LANES), s)
            s = vfma(column(x, i + v2 + c, in2, n), vload(w, q + f + 2 * LANES), s)
        store(y, iy + c, _finish(s, bias, low, high), n)


@serial
def depthwise_row(window, x, ldx, w, bias, low, high, y, iy, ldy, image, oh, c0, c1, n, far):
    """Output row oh of an image, channels c0 up to c1.

    x, y: flat; ldx, ldy: the distance of their pixels.  w: as `packed_filter` gives it.
    bias: None, or (channels,) to add before the sum is limited to the vectors low and high.
    iy: index of the row's first number in y.  n: None for whole vectors of channels, else of `load`.
    far: as `compile.far` gives it.

    The last strip is moved back until it fits, and computes again some of what the one before it has computed.
    """
    _, height, width, _, out_w, stride, top, left = window
    first, nothing, row = oh * stride - top, WEIGHTS * LANES, width * ldx
    in0, in1, in2 = 0 <= first < height, 0 <= first + 1 < height, 0 <= first + 2 < height
    row0 = row_start(image, first, height, row)
    row1 = row_start(image, first + 1, height, row)
    row2 = row_start(image, first + 2, height, row)
    q0, q1, q2 = (0 if in0 else nothing), (3 * LANES if in1 else nothing), (6 * LANES if in2 else nothing)
    strip = 1
    if n is None and stride <= 2 and out_w >= 2 and width >= 2:
        strip = 4 if stride == 1 and out_w >= 4 and width >= 4 else 2
    ow = 0
    while ow < out_w:
        ow = min(ow, out_w - strip)
        v, p = ow * stride - left, iy + ow * ldy
        i0, i1, i2 = row0 + v * ldx, row1 + v * ldx, row2 + v * ldx
        in_left, in_right = v >= 0, v + (strip - 1) * stride + 2 < width
        if strip == 4:
            _strip_of_four(
                x, i0, i1, i2, ldx, w, q0, q1, q2, bias, low, high, y, p, ldy, c0, c1, in_left, in_right,
                i2 + row, p + out_w * ldy, far,
            )  # fmt: skip
        elif strip == 2 and stride == 1:
            _strip_of_two(
                x, i0, i1, i2, ldx, w, q0, q1, q2, bias, low, high, y, p, ldy, c0, c1, None, in_left, in_right,
                i2 + row, p + out_w * ldy, row, far,
            )  # fmt: skip
        elif strip == 2:
            _strip_of_two(
                x, i0, i1, i2, ldx, w, q0, q1, q2, bias, low, high, y, p, ldy, c0, c1, True, in_left, in_right,
                i2 + row, p + out_w * ldy, row, far,
            )  # fmt: skip
        else:
            _one_output(
                x, row0, row1, row2, ldx, w, q0, q1, q2, bias, low, high, y, p, c0, c1, v, width, n
            )  # fmt: skip
        ow += strip
