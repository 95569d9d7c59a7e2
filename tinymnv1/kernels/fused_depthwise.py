"""The 3x3 depthwise convolution between two batch norms, forward and backward, for the fused training engine.

A unit of work is a band of rows of one image, or several small images. Its input is activated (forward), or turned
into the gradient dz (backward), as it is copied into scratch memory with a border of zeros. After that no loop has a
border to look out for: nine vectors around a pixel, nine weights in registers.

Backward at a stride above 1, the rows and columns of dz are set `stride` apart with zeros between them. That makes a
stride of 1 of it: pixel (h, v) met tap (i, j) at row h + top - i and column v + left - j of the spread-out dz.
"""

from numba import get_thread_id, prange

from tinymnv1.kernels.blocks import MEAN, SCALE, SHIFT, activate, block_moments, fill_zero, gradient
from tinymnv1.kernels.compile import parallel, serial
from tinymnv1.kernels.simd import LANES, vadd, vclip, vfma, vload, vmul, vpass, vsplat, vstore, vsub, vzero


@serial
def activate_band(z, n, height, width, channels, first, rows, left, columns, bn, low, high, a, ia):
    """Rows first, first + 1 ... of image n into a, activated, `columns` pixels each; zeros outside the image.

    left: columns of zeros on the left. Rows of a follow each other without a gap.
    """
    inside = min(width, columns - left)
    for h in range(first, first + rows):
        if 0 <= h < height:
            fill_zero(a, ia, left * channels)
            place = (n * height + h) * width * channels
            activate(z, place, inside, channels, bn, low, high, a, ia + left * channels, channels)
            fill_zero(a, ia + (left + inside) * channels, (columns - left - inside) * channels)
        else:
            fill_zero(a, ia, columns * channels)
        ia += columns * channels


@serial
def _gradient_band(dy, z, n, out_h, out_w, channels, stride, first, rows, left, columns, bn, dz, idz):
    """Rows first, first + 1 ... of the spread-out dz of image n; its column 0 is at `left` of the `columns` pixels."""
    for d in range(first, first + rows):
        fill_zero(dz, idz, columns * channels)
        if d >= 0 and d % stride == 0 and d // stride < out_h:
            place = (n * out_h + d // stride) * out_w * channels
            count = min(out_w, (columns - left + stride - 1) // stride)  # a pixel beyond that meets none of the image
            gradient(dy, z, place, count, channels, bn, dz, idz + left * channels, stride * channels)
        idz += columns * channels


@serial
def convolve_band(a, ia, columns, w, y, iy, rows, out_w, channels, stride):
    """`rows` rows of the output, from the padded input a of `columns` pixels a row. w: (9, channels), flat."""
    for r in range(rows):
        for c in range(0, channels, LANES):
            w0, w1, w2 = vload(w, c), vload(w, channels + c), vload(w, 2 * channels + c)
            w3, w4, w5 = vload(w, 3 * channels + c), vload(w, 4 * channels + c), vload(w, 5 * channels + c)
            w6, w7, w8 = vload(w, 6 * channels + c), vload(w, 7 * channels + c), vload(w, 8 * channels + c)
            p0 = ia + r * stride * columns * channels + c
            p1, p2 = p0 + columns * channels, p0 + 2 * columns * channels
            place = iy + r * out_w * channels + c
            for _ in range(out_w):
                # Three chains: a fused multiply-add takes four cycles, and a chain must wait for each.
                s0, s1, s2 = vmul(vload(a, p0), w0), vmul(vload(a, p1), w3), vmul(vload(a, p2), w6)
                s0, s1 = vfma(vload(a, p0 + channels), w1, s0), vfma(vload(a, p1 + channels), w4, s1)
                s2 = vfma(vload(a, p2 + channels), w7, s2)
                s0, s1 = vfma(vload(a, p0 + 2 * channels), w2, s0), vfma(vload(a, p1 + 2 * channels), w5, s1)
                s2 = vfma(vload(a, p2 + 2 * channels), w8, s2)
                vstore(y, place, vadd(s0, vadd(s1, s2)))
                p0 += stride * channels
                p1 += stride * channels
                p2 += stride * channels
                place += channels


@serial
def _backward_row(dz, idz, columns, w, z, iz, width, channels, bn, low, high, dy, dw, idw, partial, i):
    """One row of dy_in, and what the row adds to dw and to the sums of batch norm."""
    bottom, top = vsplat(low), vsplat(high)
    for c in range(0, channels, LANES):
        scale, shift = vload(bn, SCALE * channels + c), vload(bn, SHIFT * channels + c)
        mean = vload(bn, MEAN * channels + c)
        # Tap (i, j) is met by row 2 - i, column 2 - j around the pixel: the weights in reverse.
        w0, w1, w2 = vload(w, 8 * channels + c), vload(w, 7 * channels + c), vload(w, 6 * channels + c)
        w3, w4, w5 = vload(w, 5 * channels + c), vload(w, 4 * channels + c), vload(w, 3 * channels + c)
        w6, w7, w8 = vload(w, 2 * channels + c), vload(w, channels + c), vload(w, c)
        g, gz = vload(partial, i + c), vload(partial, i + channels + c)
        p0 = idz + c
        p1, p2 = p0 + columns * channels, p0 + 2 * columns * channels
        place = iz + c
        for _ in range(width):
            s0, s1, s2 = vmul(vload(dz, p0), w0), vmul(vload(dz, p1), w3), vmul(vload(dz, p2), w6)
            s0, s1 = vfma(vload(dz, p0 + channels), w1, s0), vfma(vload(dz, p1 + channels), w4, s1)
            s2 = vfma(vload(dz, p2 + channels), w7, s2)
            s0, s1 = vfma(vload(dz, p0 + 2 * channels), w2, s0), vfma(vload(dz, p1 + 2 * channels), w5, s1)
            s2 = vfma(vload(dz, p2 + 2 * channels), w8, s2)
            zv = vload(z, place)
            d = vpass(vadd(s0, vadd(s1, s2)), vfma(zv, scale, shift), bottom, top)
            vstore(dy, place, d)
            g, gz = vadd(g, d), vfma(d, vsub(zv, mean), gz)
            p0 += channels
            p1 += channels
            p2 += channels
            place += channels
        vstore(partial, i + c, g)
        vstore(partial, i + channels + c, gz)
        # dw in a loop of its own: nine weights and nine sums do not fit into the registers together.
        g0, g1, g2 = vload(dw, idw + 8 * channels + c), vload(dw, idw + 7 * channels + c), vload(dw, idw + 6 * channels + c)
        g3, g4, g5 = vload(dw, idw + 5 * channels + c), vload(dw, idw + 4 * channels + c), vload(dw, idw + 3 * channels + c)
        g6, g7, g8 = vload(dw, idw + 2 * channels + c), vload(dw, idw + channels + c), vload(dw, idw + c)
        p0 = idz + c
        p1, p2 = p0 + columns * channels, p0 + 2 * columns * channels
        place = iz + c
        for _ in range(width):
            a = vclip(vfma(vload(z, place), scale, shift), bottom, top)
            g0, g1, g2 = vfma(a, vload(dz, p0), g0), vfma(a, vload(dz, p0 + channels), g1), vfma(a, vload(dz, p0 + 2 * channels), g2)
            g3, g4, g5 = vfma(a, vload(dz, p1), g3), vfma(a, vload(dz, p1 + channels), g4), vfma(a, vload(dz, p1 + 2 * channels), g5)
            g6, g7, g8 = vfma(a, vload(dz, p2), g6), vfma(a, vload(dz, p2 + channels), g7), vfma(a, vload(dz, p2 + 2 * channels), g8)
            p0 += channels
            p1 += channels
            p2 += channels
            place += channels
        vstore(dw, idw + 8 * channels + c, g0)
        vstore(dw, idw + 7 * channels + c, g1)
        vstore(dw, idw + 6 * channels + c, g2)
        vstore(dw, idw + 5 * channels + c, g3)
        vstore(dw, idw + 4 * channels + c, g4)
        vstore(dw, idw + 3 * channels + c, g5)
        vstore(dw, idw + 2 * channels + c, g6)
        vstore(dw, idw + channels + c, g7)
        vstore(dw, idw + c, g8)


@parallel
def depthwise_forward(
    z_in, bn_in, height, width, w, z_out, images, out_h, out_w, channels, stride, top, left, low, high,
    per_unit, band, scratch, partial,
):  # fmt: skip
    """z_out = the depthwise convolution of clip(bn(z_in), low, high), and the moments of each unit of z_out.

    channels: padded. w: (9, channels), flat. A unit is per_unit images, or `band` rows of one.
    scratch: (threads, at least ((band - 1) * stride + 3) * ((out_w - 1) * stride + 3) * channels).
    partial: (units, 2, channels), flat.
    """
    bands, columns = (out_h + band - 1) // band, (out_w - 1) * stride + 3
    for unit in prange((images + per_unit - 1) // per_unit * bands):
        n0, r0 = unit // bands * per_unit, unit % bands * band
        rows = min(band, out_h - r0)
        last = min(n0 + per_unit, images)
        a = scratch[get_thread_id()]
        for n in range(n0, last):
            activate_band(
                z_in, n, height, width, channels, r0 * stride - top, (rows - 1) * stride + 3, left, columns, bn_in, low,
                high, a, 0,
            )  # fmt: skip
            iz = (n * out_h + r0) * out_w * channels
            convolve_band(a, 0, columns, w, z_out, iz, rows, out_w, channels, stride)
        iz = (n0 * out_h + r0) * out_w * channels
        block_moments(
            z_out, iz, channels, (last - n0) * rows * out_w, 0, channels // LANES, partial, unit * 2 * channels
        )


@parallel
def depthwise_backward(
    dy_out, z_out, bn_out, out_h, out_w, w, z_in, bn_in, dy_in, images, height, width, channels, stride, top, left,
    low, high, band, chunks, scratch, partial, dw,
):  # fmt: skip
    """dy_in and the weights' gradient from dy_out, and the sums for the batch norm of z_in.

    A unit is `band` rows of an image's input. scratch: (threads, at least (band + 2) * (width + 2) * channels).
    partial: (chunks, 2, channels), flat.  dw: (chunks, 9, channels), flat.
    """
    bands = (height + band - 1) // band
    units, columns = images * bands, width + 2
    for chunk in prange(chunks):
        idw, i = chunk * 9 * channels, chunk * 2 * channels
        fill_zero(dw, idw, 9 * channels)
        fill_zero(partial, i, 2 * channels)
        dz = scratch[get_thread_id()]
        for unit in range(chunk * units // chunks, (chunk + 1) * units // chunks):
            n, h0 = unit // bands, unit % bands * band
            rows = min(band, height - h0)
            _gradient_band(
                dy_out, z_out, n, out_h, out_w, channels, stride, h0 + top - 2, rows + 2, 2 - left, columns, bn_out,
                dz, 0,
            )  # fmt: skip
            for r in range(rows):
                iz = (n * height + h0 + r) * width * channels
                _backward_row(
                    dz, r * columns * channels, columns, w, z_in, iz, width, channels, bn_in, low, high,
                    dy_in, dw, idw, partial, i,
                )  # fmt: skip
