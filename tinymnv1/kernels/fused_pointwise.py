"""Pointwise convolution between two batch norms, forward and backward: the products of the fused training engine.

Forward, a block of rows of z_in is activated as it is loaded (`blocks.activate`), multiplied with the packed weights
panel by panel, and each panel's mean and squared deviations are taken while it is in the first-level cache.

Backward, a block of dz_out is made from dy_out and z_out as it is loaded (`blocks.gradient`); its product with the
transposed weights is da_in; and while that is in the cache the clip's mask turns it into dy_in, and the sums are taken
that the batch norm of z_in needs. The weights' gradient is the sum over all rows of a_in^T dz_out, and both factors lie
in the cache as well: if the weights are few, each chunk of the rows adds into a sum of its own. If they are many, the
sums would not stay in the cache; a_in is then kept, and `weights_gradient` shares out the columns of dw instead.

No two units of work write to the same number, and their number follows from the shapes alone.
"""

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
)
from tinymnv1.kernels.compile import parallel, serial
from tinymnv1.kernels.simd import (
    LANES,
    PANEL,
    TILE_ROWS,
    TILE_VECTORS,
    vadd,
    vclip,
    vfma,
    vload,
    vpass,
    vsplat,
    vstore,
    vsub,
    vzero,
)


@serial
def share_of_panels(group, groups, vectors):
    """The vectors of columns, from first up to last, of one of so many equal shares of the panels."""
    panels = (vectors + TILE_VECTORS - 1) // TILE_VECTORS
    first = group * panels // groups * TILE_VECTORS
    return first, min((group + 1) * panels // groups * TILE_VECTORS, vectors)


@parallel
def pointwise_forward(
    z_in, bn_in, depth, width_in, low, high, packed, z_out, width_out, rows, block, groups, scratch, partial
):
    """z_out = clip(bn(z_in), low, high) @ w, and the moments of each block of z_out.

    z_in: rows of width_in floats.  packed: `pack` of w (depth, channels out).  block: rows of a block, whole tiles.
    groups: a unit of work is a block of rows and one of so many shares of the columns.
    scratch: (threads, at least block * (width_in + LANES)).  partial: (blocks, 2, width_out), flat.
    """
    blocks, vectors, lda = (rows + block - 1) // block, width_out // LANES, width_in + LANES
    for unit in prange(blocks * groups):
        group, b = unit // blocks, unit % blocks
        first, last = share_of_panels(group, groups, vectors)
        start = b * block
        count = min(block, rows - start)
        a = scratch[get_thread_id()]
        activate(z_in, start * width_in, count, width_in, bn_in, low, high, a, 0, lda)
        iz = start * width_out
        v = first
        while v < last:
            end = min(v + TILE_VECTORS, last)
            product(a, 0, lda, depth, count, packed, v, end, z_out, iz, width_out)
            block_moments(z_out, iz, width_out, count, v, end, partial, b * 2 * width_out)
            v = end


@serial
def _mask_panel(da, z, iz, width, rows, first, last, bn, low, high, partial, i, a, ia, lda):
    """da, the gradient of a = clip(y), becomes that of y, in place; a is written, the sums for batch norm are added.

    partial[i + c] += sum of dy, partial[i + width + c] += sum of dy (z - mean), for the vectors c from first to last.
    """
    bottom, top = vsplat(low), vsplat(high)
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
            vstore(da, place, d0)
            vstore(da, place + width, d1)
            vstore(a, pa, vclip(y0, bottom, top))
            vstore(a, pa + lda, vclip(y1, bottom, top))
            g0, g1 = vadd(g0, d0), vadd(g1, d1)
            gz0, gz1 = vfma(d0, vsub(z0, mean), gz0), vfma(d1, vsub(z1, mean), gz1)
            place += 2 * width
            pa += 2 * lda
        if whole < rows:
            z0 = vload(z, place)
            y0 = vfma(z0, scale, shift)
            d0 = vpass(vload(da, place), y0, bottom, top)
            vstore(da, place, d0)
            vstore(a, pa, vclip(y0, bottom, top))
            g0, gz0 = vadd(g0, d0), vfma(d0, vsub(z0, mean), gz0)
        vstore(partial, i + c, vadd(vload(partial, i + c), vadd(g0, g1)))
        vstore(partial, i + width + c, vadd(vload(partial, i + width + c), vadd(gz0, gz1)))


@parallel
def pointwise_backward(
    dy_out, z_out, bn_out, channels_out, width_out, packed, z_in, bn_in, channels_in, width_in, low, high,
    dy_in, rows, block, chunks, groups, scratch, partial, kept, dw,
):  # fmt: skip
    """dy_in from dy_out, and the sums for the batch norm of z_in; with dw, the weights' gradient as well.

    packed: `pack_transposed` of w.  scratch: (threads, block * (width_out + LANES + width_in + LANES + TILE_ROWS)).
    partial: (chunks, 2, width_in), flat.  groups: shares of the columns of dy_in; 1 if dw is wanted.
    dw: (chunks, whole_tiles(channels_in), width_out), flat, or of size 0; then kept takes a_in: rows width_in + LANES
    apart. Else kept is of size 0.
    """
    blocks = (rows + block - 1) // block
    ldz, lda, vectors = width_out + LANES, width_in + LANES, width_in // LANES
    tall = (channels_in + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS
    with_dw = dw.size > 0
    for unit in prange(chunks * groups):
        group, chunk = unit // chunks, unit % chunks
        first, last = share_of_panels(group, groups, vectors)
        dz = scratch[get_thread_id()]
        a, ia = (dz, block * ldz) if with_dw else (kept, 0)
        idw, i = chunk * tall * width_out, chunk * 2 * width_in
        if with_dw:
            fill_zero(dw, idw, tall * width_out)
        fill_zero(partial, i + first * LANES, (last - first) * LANES)
        fill_zero(partial, i + width_in + first * LANES, (last - first) * LANES)
        for b in range(chunk * blocks // chunks, (chunk + 1) * blocks // chunks):
            start = b * block
            count = min(block, rows - start)
            gradient(dy_out, z_out, start * width_out, count, width_out, bn_out, dz, 0, ldz)
            iz = start * width_in
            if not with_dw:
                ia = start * lda
            v = first
            while v < last:
                end = min(v + TILE_VECTORS, last)
                product(dz, 0, ldz, channels_out, count, packed, v, end, dy_in, iz, width_in)
                _mask_panel(dy_in, z_in, iz, width_in, count, v, end, bn_in, low, high, partial, i, a, ia, lda)
                v = end
            if with_dw:
                add_product_transposed(
                    a, ia, lda, channels_in, count, dz, 0, ldz, 0, width_out // LANES, dw, idw, width_out
                )


@parallel
def weights_gradient(kept, channels_in, width_in, dy_out, z_out, bn_out, width_out, rows, block, scratch, dw):
    """dw = a_in^T dz_out with a_in as `pointwise_backward` kept it. dw: (whole_tiles(channels_in), width_out), flat.

    A unit of work is a panel of dw. scratch: (threads, at least block * PANEL).
    """
    vectors, lda = width_out // LANES, width_in + LANES
    tall = (channels_in + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS
    for p in prange((vectors + TILE_VECTORS - 1) // TILE_VECTORS):
        first = p * TILE_VECTORS
        last = min(first + TILE_VECTORS, vectors)
        dz = scratch[get_thread_id()]
        for k in range(tall):
            fill_zero(dw, k * width_out + first * LANES, (last - first) * LANES)
        for start in range(0, rows, block):
            count = min(block, rows - start)
            for c in range(first * LANES, last * LANES, LANES):
                _gradient_column(dy_out, z_out, start * width_out, count, width_out, c, bn_out, dz, c - first * LANES)
            add_product_transposed(
                kept, start * lda, lda, channels_in, count,
                dz, 0, PANEL, 0, last - first, dw, first * LANES, width_out,
            )  # fmt: skip


@serial
def _gradient_column(dy, z, iz, rows, width, c, bn, dz, idz):
    """As `blocks.gradient`, for the one vector of columns at c; rows PANEL apart in dz."""
    from_dy, from_z = vload(bn, ALONG_DY * width + c), vload(bn, ALONG_Z * width + c)
    constant = vload(bn, CONSTANT * width + c)
    place = iz + c
    for _ in range(rows):
        vstore(dz, idz, vfma(vload(dy, place), from_dy, vfma(vload(z, place), from_z, constant)))
        place += width
        idz += PANEL
