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
from tinymnv1.kernels.simd import LANES, TILE_ROWS, vadd, vclip, vfma, vload, vmul, vpass, vsplat, vstore, vsub, vzero


@serial
def gather_rows(x, height, width, cin, start, rows, out_h, out_w, stride, top, left, a, lda):
    """What so many output pixels see of the image, from pixel `start` on: 3 * 3 * cin numbers a row, lda apart."""
    for r in range(rows):
        n, rest = (start + r) // (out_h * out_w), (start + r) % (out_h * out_w)
        h0, v0 = rest // out_w * stride - top, rest % out_w * stride - left
        for i in range(3):
            h = h0 + i
            place, target = ((n * height + h) * width + v0) * cin, r * lda + i * 3 * cin
            low, high = max(-v0, 0) * cin, min(width - v0, 3) * cin  # the part of the row that lies in the image
            if h < 0 or h >= height:
                low, high = 3 * cin, 3 * cin
            for k in range(low):
                a[target + k] = 0
            for k in range(low, high):
                a[target + k] = x[place + k]
            for k in range(high, 3 * cin):
                a[target + k] = 0


@parallel
def stem_forward(
    x, height, width, cin, packed, z_out, rows, out_h, out_w, width_out, stride, top, left, block, lda, scratch, partial
):
    """z_out = the 3x3 convolution of the images x (N, H, W, cin), flat, and the moments of each block of rows.

    packed: `pack` of the weights (9 * cin, channels out).  scratch: (threads, at least block * lda), lda >= 9 * cin.
    """
    vectors = width_out // LANES
    for b in prange((rows + block - 1) // block):
        start = b * block
        count = min(block, rows - start)
        a = scratch[get_thread_id()]
        gather_rows(x, height, width, cin, start, count, out_h, out_w, stride, top, left, a, lda)
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
            gather_rows(x, height, width, cin, start, count, out_h, out_w, stride, top, left, a, lda)
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
