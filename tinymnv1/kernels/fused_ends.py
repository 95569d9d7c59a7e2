"""The two ends of the fused training engine: the stem's 3x3 convolution of the image, and the global mean."""

import numpy as np
from numba import get_thread_id, prange

from tinymnv1.kernels.blocks import (
    MEAN,
    SCALE,
    SHIFT,
    add_product_transposed,
    block_moments,
    fill_zero,
    gradient,
    product,
)
from tinymnv1.kernels.compile import parallel, serial
from tinymnv1.kernels.simd import (
    LANES,
    TILE_ROWS,
    vadd,
    vclip,
    vfma,
    vload,
    vload_tail,
    vmul,
    vpass,
    vsplat,
    vstore,
    vsub,
    vzero,
)


@serial
def _padded_line(x, height, width, cin, n, h, first, columns, line, il):
    """Pixels first, first + 1 ... of row h of image n, zeros where there are none; columns * cin floats, to line[il]."""
    length = columns * cin
    if h < 0 or h >= height:
        for k in range(0, length, LANES):
            vstore(line, il + k, vzero())
        return
    before = max(-first, 0) * cin
    place = ((n * height + h) * width + max(first, 0)) * cin
    count = (min(width, first + columns) - max(first, 0)) * cin
    for k in range(0, before, LANES):
        vstore(line, il + k, vzero())
    for k in range(0, count, LANES):
        vstore(line, il + before + k, vload_tail(x, place + k, count - k))
    for k in range(before + count, length):
        line[il + k] = 0


@serial
def gather_rows(x, height, width, cin, start, rows, out_h, out_w, stride, top, left, a, lda, il):
    """What so many output pixels see of the image, from pixel `start` on: 3 * 3 * cin numbers a row, lda apart.

    a[il:] is room for one padded row of the image. The three pixels of a row are neighbours in memory: they are copied
    as vectors, of which the last one's rest is overwritten by what comes next, or falls into the gap between the rows.
    """
    run, r = 3 * cin, 0
    while r < rows:
        n, oh, ow = (start + r) // (out_h * out_w), (start + r) // out_w % out_h, (start + r) % out_w
        count = min(out_w - ow, rows - r)  # pixels of one row of the output
        for i in range(3):
            first = ow * stride - left
            _padded_line(x, height, width, cin, n, oh * stride - top + i, first, (count - 1) * stride + 3, a, il)
            source, target = il, r * lda + i * run
            for _ in range(count):
                for k in range(0, run, LANES):
                    vstore(a, target + k, vload(a, source + k))
                source += stride * cin
                target += lda
        r += count


def stem_scratch(block: int, lda: int, width_out: int, line: int) -> int:
    """Floats of scratch memory a thread needs for blocks of so many rows; line: of a padded row of the image."""
    return block * (lda + width_out + LANES) + line + 4 * LANES


@parallel
def stem_forward(
    x, height, width, cin, packed, z_out, rows, out_h, out_w, width_out, stride, top, left, block, lda, scratch, partial
):
    """z_out = the 3x3 convolution of the images x (N, H, W, cin), flat, and the moments of each block of rows.

    packed: `pack` of the weights (9 * cin, channels out).  scratch: (threads, see `stem_scratch`), lda >= 9 * cin.
    """
    vectors = width_out // LANES
    for b in prange((rows + block - 1) // block):
        start = b * block
        count = min(block, rows - start)
        a = scratch[get_thread_id()]
        gather_rows(x, height, width, cin, start, count, out_h, out_w, stride, top, left, a, lda, block * lda)
        iz = start * width_out
        product(a, 0, lda, 9 * cin, count, packed, 0, vectors, z_out, iz, width_out)
        block_moments(z_out, iz, width_out, count, 0, vectors, partial, b * 2 * width_out)


@parallel
def stem_backward(
    x, height, width, cin, dy_out, z_out, bn_out, rows, out_h, out_w, width_out, stride, top, left,
    block, chunks, lda, scratch, dw,
):  # fmt: skip
    """The stem's weights' gradient; nobody needs the image's. dw: (chunks, whole_tiles(9 * cin), width_out), flat."""
    blocks, vectors, ldz = (rows + block - 1) // block, width_out // LANES, width_out + LANES
    tall = (9 * cin + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS
    for chunk in prange(chunks):
        idw = chunk * tall * width_out
        fill_zero(dw, idw, tall * width_out)
        a = scratch[get_thread_id()]
        dz, idz = a, block * lda
        for b in range(chunk * blocks // chunks, (chunk + 1) * blocks // chunks):
            start = b * block
            count = min(block, rows - start)
            il = block * (lda + ldz)
            gather_rows(x, height, width, cin, start, count, out_h, out_w, stride, top, left, a, lda, il)
            gradient(dy_out, z_out, start * width_out, count, width_out, bn_out, dz, idz, ldz)
            add_product_transposed(a, 0, lda, 9 * cin, count, dz, idz, ldz, 0, vectors, dw, idw, width_out)


@parallel
def pool_forward(z, bn, images, pixels, width, low, high, pooled):
    """pooled (images, width), flat: the mean over an image's pixels of clip(bn(z), low, high)."""
    for n in prange(images):
        share, bottom, top = vsplat(np.float32(1) / np.float32(pixels)), vsplat(low), vsplat(high)
        for c in range(0, width, LANES):
            scale, shift = vload(bn, SCALE * width + c), vload(bn, SHIFT * width + c)
            total, place = vzero(), n * pixels * width + c
            for _ in range(pixels):
                total = vadd(total, vclip(vfma(vload(z, place), scale, shift), bottom, top))
                place += width
            vstore(pooled, n * width + c, vmul(total, share))


@parallel
def pool_backward(dpooled, z, bn, images, pixels, width, low, high, dy, chunks, partial):
    """dy of the last batch norm from dpooled (images, width), flat, and its sums. partial: (chunks, 2, width), flat."""
    for chunk in prange(chunks):
        share, bottom, top = vsplat(np.float32(1) / np.float32(pixels)), vsplat(low), vsplat(high)
        i = chunk * 2 * width
        fill_zero(partial, i, 2 * width)
        for n in range(chunk * images // chunks, (chunk + 1) * images // chunks):
            for c in range(0, width, LANES):
                scale, shift, mean = (
                    vload(bn, SCALE * width + c),
                    vload(bn, SHIFT * width + c),
                    vload(bn, MEAN * width + c),
                )
                g, gz = vload(partial, i + c), vload(partial, i + width + c)
                each, place = vmul(vload(dpooled, n * width + c), share), n * pixels * width + c
                for _ in range(pixels):
                    zv = vload(z, place)
                    d = vpass(each, vfma(zv, scale, shift), bottom, top)
                    vstore(dy, place, d)
                    g, gz = vadd(g, d), vfma(d, vsub(zv, mean), gz)
                    place += width
                vstore(partial, i + c, g)
                vstore(partial, i + width + c, gz)
