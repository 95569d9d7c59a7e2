"""Pointwise convolution between two batch norms, forward and backward: the products of the fused training engine.

Forward, a block of rows of z_in is activated as it is loaded (`blocks.activate`), multiplied with the packed weights
panel by panel, and each panel's mean and squared deviations are taken while it is in the first-level cache.

Backward, a block of dz_out is made from dy_out and z_out as it is loaded (`blocks.gradient`); its product with the
transposed weights is da_in; and while that is in the cache the clip's mask turns it into dy_in, and the sums are taken
that the batch norm of z_in needs. The weights' gradient is the sum over all rows of a_in^T dz_out, and both factors lie
in the cache as well: if the weights are few, each chunk of the rows adds into a sum of its own. If they are many, the
sums would not stay in the cache; a_in is then kept, and `weights_gradient` shares out dw itself instead.

The factors are float32, or rounded to bfloat16 and paired (`blocks.py`): the arrays of packed weights, of scratch
memory and of kept factors then hold pairs, and Numba compiles the same functions again for them. Sums are float32.

The stem is a product, too: its rows are gathered from the image (`gather.py`) instead of activated.

No two units of work write to the same number, and where sums of several are added, their number follows from the shapes
alone.
"""

from typing import NamedTuple

import numpy as np
from numba import get_thread_id, prange

from tinymnv1.kernels.blocks import (
    ALONG_DY,
    ALONG_Z,
    CONSTANT,
    MEAN,
    SCALE,
    SHIFT,
    activate,
    add_product_transposed,
    block_moments,
    fill_zero,
    gradient,
    product,
    share_of_panels,
    terms,
)
from tinymnv1.kernels.compile import parallel, serial
from tinymnv1.kernels.gather import gather_rows
from tinymnv1.kernels.gradient_parts import add_part, copy_tiles, how_many, part_of
from tinymnv1.kernels.simd import (
    GRADIENT_ROWS,
    LANES,
    PANEL,
    TILE_VECTORS,
    numbers_in,
    vadd,
    vclip,
    vfma,
    vload,
    vpass,
    vsplat,
    vstore,
    vstore_rows,
    vsub,
    vzero,
)


class ProductShape(NamedTuple):
    """rows of pixels in `blocks` blocks of `block` rows; channels in and out, and padded.

    groups_out, groups_in: into how many shares the columns are cut, forward and backward.
    """

    rows: int
    block: int
    blocks: int
    channels_in: int
    width_in: int
    channels_out: int
    width_out: int
    groups_out: int
    groups_in: int


@serial
def as_shape(numbers):
    """The ProductShape of these nine int64; as `blocks.as_window`."""
    n = numbers
    return ProductShape(n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8])


@serial
def _forward_unit(unit, shape, window, image, low, high, z_in, bn_in, packed, z_out, a, partial):
    rows, block, blocks, depth, width_in, _, width_out, groups, _ = shape
    group, b = unit // blocks, unit % blocks
    first, last = share_of_panels(group, groups, width_out // LANES)
    start, lda = b * block, width_in // numbers_in(a) + LANES
    count = min(block, rows - start)
    if image.size > 0:
        gather_rows(window, depth // 9, image, start, count, a, lda, block * lda)
    else:
        activate(z_in, start * width_in, count, width_in, bn_in, low, high, a, 0, lda)
    iz = start * width_out
    v = first
    while v < last:
        end = min(v + TILE_VECTORS, last)
        product(a, 0, lda, terms(a, depth), count, packed, v, end, z_out, iz, width_out)
        block_moments(z_out, iz, width_out, count, v, end, partial, b * 2 * width_out)
        v = end


@parallel
def pointwise_forward(shape, window, image, low, high, z_in, bn_in, packed, z_out, scratch, partial):
    """z_out = clip(bn(z_in), low, high) @ w, and the moments of each block of z_out.

    Or, with an image (N, H, W, cin), flat: its 3x3 convolution, w being (9 * cin, channels out); z_in is not read then.
    packed: `pack` of w (channels in, channels out).  partial: (blocks, 2, width_out), flat.
    scratch: (threads, at least block * (width_in + LANES) + line_floats).
    """
    for unit in prange(shape.blocks * shape.groups_out):
        a = scratch[get_thread_id()]
        _forward_unit(np.int64(unit), shape, window, image, low, high, z_in, bn_in, packed, z_out, a, partial)


@serial
def _mask_panel(da, z, iz, width, rows, first, last, bn, low, high, partial, i, a, ia, lda):
    """da, the gradient of a = clip(y), becomes that of y, in place; a is written, the sums for batch norm are added.

    a: floats, or pairs across the rows; of an odd number of rows the last one's partner is zero.
    partial[i + c] += sum of dy, partial[i + width + c] += sum of dy (z - mean), for the vectors c from first to last.
    """
    bottom, top = vsplat(low), vsplat(high)
    step = 2 // numbers_in(a) * lda
    for c in range(first * LANES, last * LANES, LANES):
        scale, shift = vload(bn, SCALE * width + c), vload(bn, SHIFT * width + c)
        mean = vload(bn, MEAN * width + c)
        g0, g1, gz0, gz1 = vzero(), vzero(), vzero(), vzero()
        place, pa = iz + c, ia + c
        whole = rows // 2 * 2
        for _ in range(0, whole, 2):
            z0, z1 = vload(z, place), vload(z, place + width)
            y0, y1 = vfma(z0, scale, shift), vfma(z1, scale, shift)
            d0 = vpass(vload(da, place), y0, bottom, top)
            d1 = vpass(vload(da, place + width), y1, bottom, top)
            # a comes between da's load and its store: else LLVM makes one masked store of the two, which is slow.
            vstore_rows(a, pa, lda, vclip(y0, bottom, top), vclip(y1, bottom, top))
            vstore(da, place, d0)
            vstore(da, place + width, d1)
            g0, g1 = vadd(g0, d0), vadd(g1, d1)
            gz0, gz1 = vfma(d0, vsub(z0, mean), gz0), vfma(d1, vsub(z1, mean), gz1)
            place += 2 * width
            pa += step
        if whole < rows:
            z0 = vload(z, place)
            y0 = vfma(z0, scale, shift)
            d0 = vpass(vload(da, place), y0, bottom, top)
            vstore_rows(a, pa, lda, vclip(y0, bottom, top), vzero())
            vstore(da, place, d0)
            g0, gz0 = vadd(g0, d0), vfma(d0, vsub(z0, mean), gz0)
        vstore(partial, i + c, vadd(vload(partial, i + c), vadd(g0, g1)))
        vstore(partial, i + width + c, vadd(vload(partial, i + width + c), vadd(gz0, gz1)))


@serial
def _backward_unit(
    unit,
    chunks,
    shape,
    window,
    image,
    low,
    high,
    dy_out,
    z_out,
    bn_out,
    packed,
    z_in,
    bn_in,
    dy_in,
    dz,
    partial,
    kept,
    dw,
):
    rows, block, blocks, channels_in, width_in, channels_out, width_out, _, groups = shape
    numbers, lda = numbers_in(dz), width_in + LANES
    ld_along, ld_across = width_out // numbers + LANES, width_out + LANES
    tall = (channels_in + GRADIENT_ROWS - 1) // GRADIENT_ROWS * GRADIENT_ROWS
    with_dw, is_stem = dw.size > 0, image.size > 0
    # The thread's scratch memory: dz along the rows | dz in pairs across them, for dw | a_in, for dw.
    # Floats serve along and across as they lie, so with them the middle part is empty; without dw only the first is.
    across = 0 if numbers == 1 else block * ld_along
    place = across if with_dw and numbers == 2 else -1
    group, chunk = unit // chunks, unit % chunks
    first, last = share_of_panels(group, groups, 0 if is_stem else width_in // LANES)
    a, ia = (dz, across + block // numbers * ld_across) if with_dw else (kept, 0)
    idw, i = chunk * tall * width_out, chunk * 2 * width_in
    if with_dw:
        fill_zero(dw, idw, tall * width_out)
    fill_zero(partial, i + first * LANES, (last - first) * LANES)
    fill_zero(partial, i + width_in + first * LANES, (last - first) * LANES)
    for b in range(chunk * blocks // chunks, (chunk + 1) * blocks // chunks):
        start = b * block
        count = min(block, rows - start)
        iz = start * width_out
        gradient(dy_out, z_out, iz, count, width_out, bn_out, dz, 0, ld_along, place, ld_across)
        if is_stem:
            gather_rows(window, channels_in // 9, image, start, count, dz[ia:], lda, block * lda)
        if not with_dw:
            ia = start // numbers * lda
        v = first
        while v < last:
            end, iz = min(v + TILE_VECTORS, last), start * width_in
            product(dz, 0, ld_along, terms(dz, channels_out), count, packed, v, end, dy_in, iz, width_in)
            _mask_panel(dy_in, z_in, iz, width_in, count, v, end, bn_in, low, high, partial, i, a, ia, lda)
            v = end
        if with_dw:
            vectors = width_out // LANES
            count = terms(a, count)
            add_product_transposed(a, ia, lda, channels_in, count, dz, across, ld_across, vectors, dw, idw, width_out)


@parallel
def pointwise_backward(
    shape,
    window,
    image,
    low,
    high,
    dy_out,
    z_out,
    bn_out,
    packed,
    z_in,
    bn_in,
    dy_in,
    chunks,
    scratch,
    partial,
    kept,
    dw,
):
    """dy_in from dy_out, and the sums for the batch norm of z_in; with dw, the weights' gradient as well.

    With an image only dw: nobody needs the image's gradient.
    packed: `pack` of w, transposed.  partial: (chunks, 2, width_in), flat.
    scratch: (threads, block * (width_out + LANES + width_in + LANES) + line_floats); pairs fit into as many elements.
    dw: (chunks, whole_gradient_tiles(channels_in), width_out), flat, and shape.groups_in is 1; or of size 0, then kept
    takes a_in: rows, or pairs across two rows, width_in + LANES apart.
    """
    for unit in prange(chunks * shape.groups_in):
        dz = scratch[get_thread_id()]
        _backward_unit(
            np.int64(unit), chunks, shape, window, image, low, high, dy_out, z_out, bn_out, packed, z_in, bn_in, dy_in,
            dz, partial, kept, dw,
        )  # fmt: skip


@serial
def _weights_part(p, parts, shape, kept, dy_out, z_out, bn_out, a, dw):
    rows, _, _, channels_in, width_in, _, width_out, _, _ = shape
    top, bottom, begin, end, dz = part_of(p, parts)
    depth, lda, idw = min(bottom, channels_in) - top, width_in + LANES, top * width_out + begin
    for start in range(0, rows, parts.block):
        count = min(parts.block, rows - start)
        _gradient_panels(dy_out, z_out, start * width_out, count, width_out, begin, end, bn_out, a, dz, parts.panel)
        count = terms(kept, count)
        copy_tiles(kept, start // numbers_in(kept) * lda + top, lda, count, depth, a, parts.tile)
        add_part(a, parts, depth, count, dz, end - begin, dw, idw, width_out, start == 0)


@parallel
def weights_gradient(shape, parts, kept, dy_out, z_out, bn_out, scratch, dw):
    """dw = a_in^T dz_out with a_in as `pointwise_backward` kept it. A unit of work is a part of dw.

    dw: (whole_gradient_tiles(channels_in), width_out), flat.  scratch: (threads, at least part_floats(parts)).
    """
    for p in prange(how_many(parts)):
        _weights_part(np.int64(p), parts, shape, kept, dy_out, z_out, bn_out, scratch[get_thread_id()], dw)


@serial
def _gradient_panels(dy, z, iz, rows, width, begin, end, bn, a, dz, panel):
    """As `blocks.gradient`, for the columns from begin up to end: panels of PANEL columns, `panel` apart from a[dz] on.

    A panel has rows of PANEL floats, or of as many pairs across two rows.
    """
    step = 2 // numbers_in(a) * PANEL
    for r in range(0, rows, 2):
        for c in range(begin, end, LANES):
            from_dy, from_z = vload(bn, ALONG_DY * width + c), vload(bn, ALONG_Z * width + c)
            constant, place = vload(bn, CONSTANT * width + c), iz + c
            d0 = vfma(vload(dy, place), from_dy, vfma(vload(z, place), from_z, constant))
            d1 = vzero()
            if r + 1 < rows:
                d1 = vfma(vload(dy, place + width), from_dy, vfma(vload(z, place + width), from_z, constant))
            within = c - begin
            vstore_rows(a, dz + r // 2 * step + within // PANEL * panel + within % PANEL, PANEL, d0, d1)
        iz += 2 * width
