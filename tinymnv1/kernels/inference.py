"""The inference engine's kernels: convolutions with a bias and a clip, batch norm being folded into the weights.

Rows are padded, as `blocks.py` says. The rows of an activation are `spread` apart, so that a block of them can be read
where it lies. Work is shared out by blocks of rows and by channels, so that one image, too, keeps all threads busy.
"""

from numba import get_thread_id, prange

from tinymnv1.kernels.compile import parallel, serial
from tinymnv1.kernels.fused_ends import gather_rows
from tinymnv1.kernels.fused_pointwise import share_of_panels
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


@parallel
def stem_inference(
    x, height, width, cin, packed, bias, low, high, y, rows, out_h, out_w, channels, ldy, stride, top, left, block,
    lda, scratch,
):  # fmt: skip
    """y = clip(the 3x3 convolution of the images x (N, H, W, cin), flat, + bias). channels: padded; rows ldy apart."""
    for b in prange((rows + block - 1) // block):
        start = b * block
        count = min(block, rows - start)
        a = scratch[get_thread_id()]
        gather_rows(x, height, width, cin, start, count, out_h, out_w, stride, top, left, a, lda, block * lda)
        _clipped_product(a, 0, lda, 9 * cin, count, packed, bias, 0, channels // LANES, low, high, y, start * ldy, ldy)


@parallel
def pointwise_inference(x, ldx, depth, packed, bias, low, high, y, channels, ldy, rows, block, groups):
    """y = clip(x @ w + bias, low, high). A unit is a block of rows and one of `groups` shares of the columns."""
    blocks = (rows + block - 1) // block
    for unit in prange(blocks * groups):
        group, start = unit // blocks, unit % blocks * block
        first, last = share_of_panels(group, groups, channels // LANES)
        count = min(block, rows - start)
        _clipped_product(x, start * ldx, ldx, depth, count, packed, bias, first, last, low, high, y, start * ldy, ldy)


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


@parallel
def depthwise_inference(
    x, ldx, images, height, width, w, bias, channels, low, high, y, ldy, out_h, out_w, stride, top, left, band, groups,
    scratch,
):  # fmt: skip
    """y = clip(the depthwise convolution + bias). A unit is `band` rows of an image, and a share of the channels.

    scratch: (threads, ((band - 1) * stride + 3) * ((out_w - 1) * stride + 3) * the channels of a share).
    """
    bands, vectors, columns = (out_h + band - 1) // band, channels // LANES, (out_w - 1) * stride + 3
    for unit in prange(images * bands * groups):
        group, rest = unit % groups, unit // groups
        n, r0 = rest // bands, rest % bands * band
        c0, c1 = group * vectors // groups * LANES, (group + 1) * vectors // groups * LANES
        rows = min(band, out_h - r0)
        padded_rows = (rows - 1) * stride + 3
        a = scratch[get_thread_id()]
        _copy_band(x, ldx, n, height, width, r0 * stride - top, padded_rows, left, columns, c0, c1, a)
        iy = (n * out_h + r0) * out_w * ldy
        plane = padded_rows * columns
        _clipped_band(a, plane, columns, w, bias, channels, c0, c1, low, high, y, iy, ldy, rows, out_w, stride)


@parallel
def pool_inference(x, ldx, images, pixels, channels, pooled, ldp):
    """pooled[n] = the mean over an image's pixels."""
    for n in prange(images):
        for c in range(0, channels, LANES):
            total, place = vzero(), n * pixels * ldx + c
            for _ in range(pixels):
                total = vadd(total, vload(x, place))
                place += ldx
            vstore(pooled, n * ldp + c, vmul(total, vsplat(1 / pixels)))
