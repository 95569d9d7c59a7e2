"""The inference engine's kernels: convolutions with a bias and a clip, batch norm being folded into the weights.

Rows are padded, as `blocks.py` says. The rows of an activation are `spread` apart, so that a block of them can be read
where it lies. Work is shared out by blocks of rows and by channels, so that one image, too, keeps all threads busy.
"""

import numpy as np
from numba import get_thread_id, prange

from tinymnv1.kernels.blocks import share_of_panels
from tinymnv1.kernels.compile import parallel, serial
from tinymnv1.kernels.gather import gather_rows
from tinymnv1.kernels.simd import (
    LANES,
    PANEL,
    TILE_ROWS,
    TILE_VECTORS,
    clipped_tile,
    vadd,
    vclip,
    vfma,
    vload,
    vmul,
    vsplat,
    vstore,
    vzero,
)

_tile = clipped_tile(TILE_ROWS, TILE_VECTORS)
_tile1 = clipped_tile(TILE_ROWS, 1)


@serial
def _clipped_product(a, ia, lda, depth, rows, packed, bias, first, last, low, high, y, iy, ldy):
    """As `blocks.product`, plus the bias, limited to [low, high]."""
    v = first
    while v < last:
        place = v * depth * LANES
        if v + TILE_VECTORS <= last:
            for r in range(0, rows, TILE_ROWS):
                _tile(
                    a, ia + r * lda, lda, depth, packed, place, PANEL, y, iy + r * ldy + v * LANES, ldy,
                    bias, v * LANES, low, high,
                )  # fmt: skip
            v += TILE_VECTORS
        else:
            for r in range(0, rows, TILE_ROWS):
                _tile1(
                    a, ia + r * lda, lda, depth, packed, place, LANES, y, iy + r * ldy + v * LANES, ldy,
                    bias, v * LANES, low, high,
                )  # fmt: skip
            v += 1


@serial
def _product_unit(unit, shape, window, image, x, ldx, packed, bias, low, high, y, ldy, a):
    rows, block, blocks, depth, width_in, _, width_out, groups, _ = shape
    group, start = unit // blocks, unit % blocks * block
    first, last = share_of_panels(group, groups, width_out // LANES)
    count = min(block, rows - start)
    if image.size > 0:
        lda = width_in + LANES
        gather_rows(window, depth // 9, image, start, count, a, lda, block * lda)
        _clipped_product(a, 0, lda, depth, count, packed, bias, first, last, low, high, y, start * ldy, ldy)
    else:
        _clipped_product(x, start * ldx, ldx, depth, count, packed, bias, first, last, low, high, y, start * ldy, ldy)


@parallel
def product_inference(shape, window, image, x, ldx, packed, bias, low, high, y, ldy, scratch):
    """y = clip(x @ w + bias, low, high), rows of x and y being ldx and ldy apart.

    With an image (N, H, W, cin), flat: its 3x3 convolution instead; x is not read then.
    scratch: (threads, at least block * (width_in + LANES) + line_floats), for an image.
    """
    for unit in prange(shape.blocks * shape.groups_out):
        a = scratch[get_thread_id()]
        _product_unit(np.int64(unit), shape, window, image, x, ldx, packed, bias, low, high, y, ldy, a)


@serial
def _copy_band(x, ldx, n, height, width, first, rows, left, columns, c0, c1, a):
    """Rows first, first + 1 ... of image n into planes, `columns` pixels each, zeros outside; channels c0 to c1."""
    plane, target = rows * columns, 0
    for h in range(first, first + rows):
        place = (n * height + h) * width * ldx
        for v in range(-left, columns - left):
            if 0 <= h < height and 0 <= v < width:
                for c in range(c0, c1, LANES):
                    vstore(a, target + (c - c0) * plane, vload(x, place + v * ldx + c))
            else:
                for c in range(c0, c1, LANES):
                    vstore(a, target + (c - c0) * plane, vzero())
            target += LANES


@serial
def _clipped_band(a, plane, columns, w, bias, channels, c0, c1, low, high, y, iy, ldy, rows, out_w, stride):
    """`rows` rows of the output from the padded planes. w: (9, channels), flat."""
    down, bottom, top = columns * LANES, vsplat(low), vsplat(high)
    for c in range(c0, c1, LANES):
        w0, w1, w2 = vload(w, c), vload(w, channels + c), vload(w, 2 * channels + c)
        w3, w4, w5 = vload(w, 3 * channels + c), vload(w, 4 * channels + c), vload(w, 5 * channels + c)
        w6, w7, w8 = vload(w, 6 * channels + c), vload(w, 7 * channels + c), vload(w, 8 * channels + c)
        start, place = vload(bias, c), iy + c
        for r in range(rows):
            p = (c - c0) * plane + r * stride * down
            for _ in range(out_w):
                s0, s1, s2 = (
                    vfma(vload(a, p), w0, start),
                    vmul(vload(a, p + down), w3),
                    vmul(vload(a, p + 2 * down), w6),
                )
                s0, s1 = vfma(vload(a, p + LANES), w1, s0), vfma(vload(a, p + down + LANES), w4, s1)
                s2 = vfma(vload(a, p + 2 * down + LANES), w7, s2)
                s0, s1 = vfma(vload(a, p + 2 * LANES), w2, s0), vfma(vload(a, p + down + 2 * LANES), w5, s1)
                s2 = vfma(vload(a, p + 2 * down + 2 * LANES), w8, s2)
                vstore(y, place, vclip(vadd(s0, vadd(s1, s2)), bottom, top))
                p += stride * LANES
                place += ldy


@serial
def _depthwise_unit(unit, window, x, ldx, w, bias, channels, low, high, y, ldy, band, groups, a):
    _, height, width, out_h, out_w, stride, top, left = window
    bands, vectors, columns = (out_h + band - 1) // band, channels // LANES, (out_w - 1) * stride + 3
    group, rest = unit % groups, unit // groups
    n, r0 = rest // bands, rest % bands * band
    c0, c1 = group * vectors // groups * LANES, (group + 1) * vectors // groups * LANES
    rows = min(band, out_h - r0)
    padded_rows = (rows - 1) * stride + 3
    _copy_band(x, ldx, n, height, width, r0 * stride - top, padded_rows, left, columns, c0, c1, a)
    iy = (n * out_h + r0) * out_w * ldy
    plane = padded_rows * columns
    _clipped_band(a, plane, columns, w, bias, channels, c0, c1, low, high, y, iy, ldy, rows, out_w, stride)


@parallel
def depthwise_inference(window, x, ldx, w, bias, channels, low, high, y, ldy, units, band, groups, scratch):
    """y = clip(the depthwise convolution + bias). A unit is `band` rows of an image, and a share of the channels.

    scratch: (threads, ((band - 1) * stride + 3) * ((out_w - 1) * stride + 3) * the channels of a share).
    """
    for unit in prange(units):
        a = scratch[get_thread_id()]
        _depthwise_unit(np.int64(unit), window, x, ldx, w, bias, channels, low, high, y, ldy, band, groups, a)


@serial
def _separable_unit(unit, window, x, ldx, w, bias, channels, packed, bias_out, cout, low, high, y, ldy, band, depth, a):
    _, height, width, out_h, out_w, stride, top, left = window
    bands, columns = (out_h + band - 1) // band, (out_w - 1) * stride + 3
    n, r0 = unit // bands, unit % bands * band
    rows = min(band, out_h - r0)
    padded_rows, pixels, ldt = (rows - 1) * stride + 3, rows * out_w, channels + LANES
    plane = padded_rows * columns
    t = a[plane * channels :]
    _copy_band(x, ldx, n, height, width, r0 * stride - top, padded_rows, left, columns, 0, channels, a)
    _clipped_band(a, plane, columns, w, bias, channels, 0, channels, low, high, t, 0, ldt, rows, out_w, stride)
    iy, vectors = (n * out_h + r0) * out_w * ldy, cout // LANES
    whole = pixels // TILE_ROWS * TILE_ROWS
    if whole > 0:
        _clipped_product(t, 0, ldt, depth, whole, packed, bias_out, 0, vectors, low, high, y, iy, ldy)
    if whole < pixels:  # the planes are no longer needed: they take the last tile, which would reach into the next band
        _clipped_product(t, whole * ldt, ldt, depth, 1, packed, bias_out, 0, vectors, low, high, a, 0, cout)
        for r in range(pixels - whole):
            for c in range(0, cout, LANES):
                vstore(y, iy + (whole + r) * ldy + c, vload(a, r * cout + c))


@parallel
def separable_inference(
    window, x, ldx, w, bias, channels, packed, bias_out, cout, low, high, y, ldy, units, band, depth, scratch
):
    """A depthwise and a pointwise convolution in one: what the first makes of a band of rows stays in the cache.

    channels, cout: padded.  depth: channels that there are.  scratch: (threads, ((band - 1) * stride + 3) *
    ((out_w - 1) * stride + 3) * channels, or TILE_ROWS * cout if that is more, and (whole tiles of band * out_w) *
    (channels + LANES)).
    """
    for unit in prange(units):
        a = scratch[get_thread_id()]
        _separable_unit(
            np.int64(unit), window, x, ldx, w, bias, channels, packed, bias_out, cout, low, high, y, ldy, band, depth, a
        )


@serial
def _pool_image(n, x, ldx, pixels, channels, pooled, ldp):
    for c in range(0, channels, LANES):
        total, place = vzero(), n * pixels * ldx + c
        for _ in range(pixels):
            total = vadd(total, vload(x, place))
            place += ldx
        vstore(pooled, n * ldp + c, vmul(total, vsplat(np.float32(1) / np.float32(pixels))))


@parallel
def pool_inference(x, ldx, images, pixels, channels, pooled, ldp):
    """pooled[n] = the mean over an image's pixels."""
    for n in prange(images):
        _pool_image(np.int64(n), x, ldx, pixels, channels, pooled, ldp)
