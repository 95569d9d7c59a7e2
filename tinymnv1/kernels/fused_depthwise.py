"""The 3x3 depthwise convolution between two batch norms, forward and backward, for the fused training engine.

A unit of work is a band of rows of one image, or several small images. Its input is activated (forward), or turned
into the gradient dz (backward), as it is copied into scratch memory with a border of zeros. After that no loop has a
border to look out for: nine vectors around a pixel, nine weights in registers. The copy is made of planes, one for each
vector of channels, so that neighbouring pixels are neighbours in memory; at a distance of 512 channels they would push
each other out of the first-level cache. So would nine rows of weights and nine of their sums: these lie vector by
vector of channels, too, what belongs to one vector in one piece.

Backward at a stride above 1, the rows and columns of dz are set `stride` apart with zeros between them. That makes a
stride of 1 of it: pixel (h, v) met tap (i, j) at row h + top - i and column v + left - j of the spread-out dz.
"""

import numpy as np
from numba import get_thread_id, prange

from tinymnv1.kernels.blocks import ALONG_DY, ALONG_Z, CONSTANT, MEAN, SCALE, SHIFT, block_moments, fill_zero
from tinymnv1.kernels.compile import parallel, serial
from tinymnv1.kernels.simd import LANES, vadd, vclip, vfma, vload, vmul, vpass, vsplat, vstore, vsub, vzero

SUMS = 11
"""Backward, a vector of channels has so many vectors of sums: nine of dw, then those of dy and of dy (z - mean)."""


@serial
def _activate_band(z, n, height, width, channels, first, rows, left, columns, bn, low, high, a):
    """Rows first, first + 1 ... of image n, activated, into planes: `columns` pixels a row, zeros outside the image.

    left: columns of zeros on the left.
    """
    bottom, top = vsplat(low), vsplat(high)
    plane, target = rows * columns, 0
    for h in range(first, first + rows):
        place = (n * height + h) * width * channels
        for v in range(-left, columns - left):
            if 0 <= h < height and 0 <= v < width:
                for c in range(0, channels, LANES):
                    zv = vload(z, place + v * channels + c)
                    y = vfma(zv, vload(bn, SCALE * channels + c), vload(bn, SHIFT * channels + c))
                    vstore(a, target + c * plane, vclip(y, bottom, top))
            else:
                for c in range(0, channels, LANES):
                    vstore(a, target + c * plane, vzero())
            target += LANES


@serial
def _gradient_band(dy, z, n, out_h, out_w, channels, stride, first, rows, left, columns, bn, dz):
    """Rows first, first + 1 ... of the spread-out dz of image n into planes; its column 0 is at `left` of `columns`."""
    fill_zero(dz, 0, rows * columns * channels)
    plane = rows * columns
    count = min(out_w, (columns - left + stride - 1) // stride)  # a pixel beyond that meets none of the image
    for r in range((max(first, 0) + stride - 1) // stride, min((first + rows - 1) // stride + 1, out_h)):
        place = (n * out_h + r) * out_w * channels
        target = ((r * stride - first) * columns + left) * LANES
        for _ in range(count):
            for c in range(0, channels, LANES):
                along = vfma(vload(z, place + c), vload(bn, ALONG_Z * channels + c), vload(bn, CONSTANT * channels + c))
                along = vfma(vload(dy, place + c), vload(bn, ALONG_DY * channels + c), along)
                vstore(dz, target + c * plane, along)
            place += channels
            target += stride * LANES


@serial
def convolve_band(a, plane, columns, w, y, iy, rows, out_w, channels, stride):
    """`rows` rows of the output, from planes of the padded input: `plane` pixels each.

    w: (channels / LANES, 9, LANES), flat.
    """
    down = columns * LANES
    for c in range(0, channels, LANES):
        q = 9 * c
        w0, w1, w2 = vload(w, q), vload(w, q + LANES), vload(w, q + 2 * LANES)
        w3, w4, w5 = vload(w, q + 3 * LANES), vload(w, q + 4 * LANES), vload(w, q + 5 * LANES)
        w6, w7, w8 = vload(w, q + 6 * LANES), vload(w, q + 7 * LANES), vload(w, q + 8 * LANES)
        place = iy + c
        for r in range(rows):
            p = c * plane + r * stride * down
            for _ in range(out_w):
                # Three chains: a fused multiply-add takes four cycles, and a chain must wait for each.
                s0, s1, s2 = vmul(vload(a, p), w0), vmul(vload(a, p + down), w3), vmul(vload(a, p + 2 * down), w6)
                s0, s1 = vfma(vload(a, p + LANES), w1, s0), vfma(vload(a, p + down + LANES), w4, s1)
                s2 = vfma(vload(a, p + 2 * down + LANES), w7, s2)
                s0, s1 = vfma(vload(a, p + 2 * LANES), w2, s0), vfma(vload(a, p + down + 2 * LANES), w5, s1)
                s2 = vfma(vload(a, p + 2 * down + 2 * LANES), w8, s2)
                vstore(y, place, vadd(s0, vadd(s1, s2)))
                p += stride * LANES
                place += channels


@serial
def _backward_band(dz, plane, columns, w, z, iz, rows, width, channels, bn, low, high, dy, sums):
    """`rows` rows of dy_in from the planes dz, and what they add to the sums.

    These are (channels / LANES, SUMS, LANES) from dz[sums] on. Behind them is room for a vector of a row of a_in.
    """
    bottom, top = vsplat(low), vsplat(high)
    down, activated = columns * LANES, sums + SUMS * channels
    for c in range(0, channels, LANES):
        scale, shift = vload(bn, SCALE * channels + c), vload(bn, SHIFT * channels + c)
        mean = vload(bn, MEAN * channels + c)
        # Tap (i, j) is met by row 2 - i, column 2 - j around the pixel: the weights in reverse, and dw too.
        q = 9 * c
        w0, w1, w2 = vload(w, q + 8 * LANES), vload(w, q + 7 * LANES), vload(w, q + 6 * LANES)
        w3, w4, w5 = vload(w, q + 5 * LANES), vload(w, q + 4 * LANES), vload(w, q + 3 * LANES)
        w6, w7, w8 = vload(w, q + 2 * LANES), vload(w, q + LANES), vload(w, q)
        g0, g1, g2 = vzero(), vzero(), vzero()
        g3, g4, g5 = vzero(), vzero(), vzero()
        g6, g7, g8 = vzero(), vzero(), vzero()
        g, gz = vzero(), vzero()
        row = iz + c
        for r in range(rows):
            p, place, line = c * plane + r * down, row, activated
            for _ in range(width):
                s0, s1, s2 = vmul(vload(dz, p), w0), vmul(vload(dz, p + down), w3), vmul(vload(dz, p + 2 * down), w6)
                s0, s1 = vfma(vload(dz, p + LANES), w1, s0), vfma(vload(dz, p + down + LANES), w4, s1)
                s2 = vfma(vload(dz, p + 2 * down + LANES), w7, s2)
                s0, s1 = vfma(vload(dz, p + 2 * LANES), w2, s0), vfma(vload(dz, p + down + 2 * LANES), w5, s1)
                s2 = vfma(vload(dz, p + 2 * down + 2 * LANES), w8, s2)
                zv = vload(z, place)
                y = vfma(zv, scale, shift)
                d = vpass(vadd(s0, vadd(s1, s2)), y, bottom, top)
                vstore(dy, place, d)
                vstore(dz, line, vclip(y, bottom, top))
                g, gz = vadd(g, d), vfma(d, vsub(zv, mean), gz)
                p += LANES
                place += channels
                line += LANES
            # dw in a loop of its own: nine weights and nine sums do not fit into the registers together, nor do nine
            # sums and what a is made of.
            p, line = c * plane + r * down, activated
            for _ in range(width):
                a = vload(dz, line)
                g0, g1 = vfma(a, vload(dz, p), g0), vfma(a, vload(dz, p + LANES), g1)
                g2, g3 = vfma(a, vload(dz, p + 2 * LANES), g2), vfma(a, vload(dz, p + down), g3)
                g4, g5 = vfma(a, vload(dz, p + down + LANES), g4), vfma(a, vload(dz, p + down + 2 * LANES), g5)
                g6, g7 = vfma(a, vload(dz, p + 2 * down), g6), vfma(a, vload(dz, p + 2 * down + LANES), g7)
                g8 = vfma(a, vload(dz, p + 2 * down + 2 * LANES), g8)
                p += LANES
                line += LANES
            row += width * channels
        q = sums + SUMS * c
        for t, v in enumerate((g8, g7, g6, g5, g4, g3, g2, g1, g0, g, gz)):
            _add_to(dz, q + t * LANES, v)


@serial
def _add_to(a, i, v):
    vstore(a, i, vadd(vload(a, i), v))


@serial
def _forward_unit(unit, window, channels, low, high, z_in, bn_in, w, z_out, per_unit, band, a, partial):
    images, height, width, out_h, out_w, stride, top, left = window
    bands, columns = (out_h + band - 1) // band, (out_w - 1) * stride + 3
    n0, r0 = unit // bands * per_unit, unit % bands * band
    last, rows = min(n0 + per_unit, images), min(band, out_h - r0)
    padded_rows = (rows - 1) * stride + 3
    for n in range(n0, last):
        _activate_band(
            z_in, n, height, width, channels, r0 * stride - top, padded_rows, left, columns, bn_in, low, high, a
        )
        iz = (n * out_h + r0) * out_w * channels
        convolve_band(a, padded_rows * columns, columns, w, z_out, iz, rows, out_w, channels, stride)
    iz = (n0 * out_h + r0) * out_w * channels
    pixels, first = (last - n0) * rows * out_w, np.int64(0)
    block_moments(z_out, iz, channels, pixels, first, channels // LANES, partial, unit * 2 * channels)


@parallel
def depthwise_forward(window, channels, low, high, z_in, bn_in, w, z_out, units, per_unit, band, scratch, partial):
    """z_out = the depthwise convolution of clip(bn(z_in), low, high), and the moments of each unit of z_out.

    channels: padded. w: as `convolve_band` wants it. A unit is per_unit images, or `band` rows of one.
    scratch: (threads, at least ((band - 1) * stride + 3) * ((out_w - 1) * stride + 3) * channels).
    partial: (units, 2, channels), flat.
    """
    for unit in prange(units):
        a = scratch[get_thread_id()]
        _forward_unit(np.int64(unit), window, channels, low, high, z_in, bn_in, w, z_out, per_unit, band, a, partial)


@serial
def _backward_chunk(
    chunk, chunks, window, channels, low, high, dy_out, z_out, bn_out, w, z_in, bn_in, dy_in, band, dz, partial, dw
):
    images, height, width, out_h, out_w, stride, top, left = window
    bands = (height + band - 1) // band
    units, columns = images * bands, width + 2
    idw, i = chunk * 9 * channels, chunk * 2 * channels
    sums = (band + 2) * columns * channels
    fill_zero(dz, sums, SUMS * channels)
    for unit in range(chunk * units // chunks, (chunk + 1) * units // chunks):
        n, h0 = unit // bands, unit % bands * band
        rows = min(band, height - h0)
        _gradient_band(
            dy_out, z_out, n, out_h, out_w, channels, stride, h0 + top - 2, rows + 2, 2 - left, columns, bn_out, dz
        )
        iz = (n * height + h0) * width * channels
        _backward_band(
            dz, (rows + 2) * columns, columns, w, z_in, iz, rows, width, channels, bn_in, low, high,
            dy_in, sums,
        )  # fmt: skip
    for c in range(0, channels, LANES):
        q = sums + SUMS * c
        for t in range(9):
            vstore(dw, idw + t * channels + c, vload(dz, q + t * LANES))
        vstore(partial, i + c, vload(dz, q + 9 * LANES))
        vstore(partial, i + channels + c, vload(dz, q + 10 * LANES))


@parallel
def depthwise_backward(
    window, channels, low, high, dy_out, z_out, bn_out, w, z_in, bn_in, dy_in, band, chunks, scratch, partial, dw
):
    """dy_in and the weights' gradient from dy_out, and the sums for the batch norm of z_in.

    A unit is `band` rows of an image's input, a chunk several. w: as `convolve_band` wants it.
    scratch: (threads, at least ((band + 2) * (width + 2) + SUMS) * channels + width * LANES).
    partial: (chunks, 2, channels), flat.  dw: (chunks, 9, channels), flat.
    """
    for chunk in prange(chunks):
        dz = scratch[get_thread_id()]
        _backward_chunk(
            np.int64(chunk), chunks, window, channels, low, high, dy_out, z_out, bn_out, w, z_in, bn_in, dy_in, band,
            dz, partial, dw,
        )  # fmt: skip
