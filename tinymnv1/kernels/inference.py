"""The inference engine's kernels: convolutions with a bias and a clip, batch norm being folded into the weights.

Rows are padded, as `blocks.py` says. Those of an activation may lie further apart (ldx, ldy), so that a block of them
can be read where it lies: `engine.inference.apart` says when. Work is shared out by blocks of rows and by channels, so
that one image, too, is work for several threads.
"""

import numpy as np
from numba import get_thread_id, prange

from tinymnv1.kernels.blocks import as_window, share_of_panels
from tinymnv1.kernels.compile import parallel, serial
from tinymnv1.kernels.fused_pointwise import as_shape
from tinymnv1.kernels.gather import gather_rows
from tinymnv1.kernels.simd import (
    LANES,
    PANEL,
    TILE_ROWS,
    TILE_VECTORS,
    clipped_tile,
    vload,
    vsplat,
    vstore,
)
from tinymnv1.kernels.strips import depthwise_row

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
    rows, block, blocks, depth, width_in, _, width_out, groups, _ = as_shape(shape)
    group, start = unit // blocks, unit % blocks * block
    first, last = share_of_panels(group, groups, width_out // LANES)
    count = min(block, rows - start)
    if image.size > 0:
        lda = width_in + LANES
        gather_rows(as_window(window), depth // 9, image, start, count, a, lda, block * lda)
        i = np.int64(0)
        _clipped_product(a, i, lda, depth, count, packed, bias, first, last, low, high, y, start * ldy, ldy)
    else:
        _clipped_product(x, start * ldx, ldx, depth, count, packed, bias, first, last, low, high, y, start * ldy, ldy)


@parallel
def product_inference(units, shape, window, image, x, ldx, packed, bias, low, high, y, ldy, scratch):
    """y = clip(x @ w + bias, low, high), rows of x and y being ldx and ldy apart.

    shape, window: as arrays.  units: shape.blocks * shape.groups_out.

    With an image (N, H, W, cin), flat: its 3x3 convolution instead; x is not read then.
    scratch: (threads, at least block * (width_in + LANES) + line_floats), for an image.
    """
    for unit in prange(units):
        a = scratch[get_thread_id()]
        _product_unit(np.int64(unit), shape, window, image, x, ldx, packed, bias, low, high, y, ldy, a)


@serial
def _depthwise_unit(unit, numbers, x, ldx, w, bias, channels, low, high, y, ldy, band, groups):
    window = as_window(numbers)
    out_h, out_w = window.out_h, window.out_w
    bands, vectors = (out_h + band - 1) // band, channels // LANES
    group, rest = unit % groups, unit // groups
    n, r0 = rest // bands, rest % bands * band
    c0, c1 = group * vectors // groups * LANES, (group + 1) * vectors // groups * LANES
    bottom, top = vsplat(low), vsplat(high)
    for oh in range(r0, min(r0 + band, out_h)):
        iy = (n * out_h + oh) * out_w * ldy
        depthwise_row(window, x, ldx, w, bias, bottom, top, y, iy, ldy, n, oh, c0, c1, None, None)


@parallel
def depthwise_inference(window, x, ldx, w, bias, channels, low, high, y, ldy, units, band, groups):
    """y = clip(the depthwise convolution + bias). A unit is `band` rows of an image, and a share of the channels.

    window: as an array.  w: as `depthwise_row` wants it.
    """
    for unit in prange(units):
        _depthwise_unit(np.int64(unit), window, x, ldx, w, bias, channels, low, high, y, ldy, band, groups)


@serial
def _separable_unit(
    unit, numbers, x, ldx, w, bias, channels, packed, bias_out, cout, low, high, y, ldy, band, depth, a
):
    window = as_window(numbers)
    out_h, out_w = window.out_h, window.out_w
    bands = (out_h + band - 1) // band
    n, r0 = unit // bands, unit % bands * band
    rows = min(band, out_h - r0)
    pixels, ldt, t = rows * out_w, channels + LANES, a[TILE_ROWS * cout :]
    bottom, top, zero = vsplat(low), vsplat(high), np.int64(0)
    for r in range(rows):
        it = r * out_w * ldt
        depthwise_row(
            window, x, ldx, w, bias, bottom, top, t, it, ldt, n, r0 + r, zero, channels, None, None
        )  # fmt: skip
    iy, vectors = (n * out_h + r0) * out_w * ldy, cout // LANES
    whole = pixels // TILE_ROWS * TILE_ROWS
    rest = pixels - whole
    if whole > 0:
        _clipped_product(t, zero, ldt, depth, whole, packed, bias_out, zero, vectors, low, high, y, iy, ldy)
    if rest > 0:  # the last tile would reach into the next band: it goes elsewhere first
        it = whole * ldt
        _clipped_product(t, it, ldt, depth, rest, packed, bias_out, zero, vectors, low, high, a, zero, cout)
        for r in range(rest):
            for c in range(0, cout, LANES):
                vstore(y, iy + (whole + r) * ldy + c, vload(a, r * cout + c))


@parallel
def separable_inference(
    window, x, ldx, w, bias, channels, packed, bias_out, cout, low, high, y, ldy, units, band, depth, scratch
):
    """A depthwise and a pointwise convolution in one: what the first makes of a band of rows stays in the cache.

    window: as an array.  channels, cout: padded.  depth: channels that there are.  w: as `depthwise_row` wants it.
    scratch: (threads, TILE_ROWS * cout + (whole tiles of band * out_w) * (channels + LANES)).
    """
    for unit in prange(units):
        a = scratch[get_thread_id()]
        _separable_unit(
            np.int64(unit), window, x, ldx, w, bias, channels, packed, bias_out, cout, low, high, y, ldy, band, depth, a
        )
