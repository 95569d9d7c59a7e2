"""What the fused kernels share: padded channels, packed weights, and what is done with one block of rows.

An activation is a matrix of pixels (rows) by channels. In the fused engines a row begins with `padded(C)` floats, a
whole number of vectors; the numbers beyond the last channel are zero, or are never used. So no kernel needs code for
the end of a row. In training that is the whole row; in inference rows may lie further apart. An array also has
TILE_ROWS - 1 rows to spare behind its last one, so that a register tile may write a whole tile there, and nothing needs
code for the last rows either.

Each batch norm has COEFFICIENTS rows of padded(C) numbers, in one flat array `bn`:

    SCALE, SHIFT    y = scale * z + shift is the normalised z (gamma and beta included)
    MEAN, INV_STD   of the batch
    ALONG_DY, ALONG_Z, CONSTANT     dz = along_dy * dy + along_z * z + constant, the gradient (`moments.py`)

z is what a convolution wrote, a = clip(y, low, high) what the next one reads: a is never stored, it is made from z as a
block of rows is loaded. The block is then in the second-level cache, in rows that are `spread` apart.

The factors of a product are floats, or pairs of bfloat16: of two numbers that are multiplied one after the other. So a
block is paired along its rows where it is multiplied with weights, and these along their columns; and across its rows,
each with the next, for the weights' gradient, which is a sum over rows. `terms` counts the pairs.
"""

from typing import NamedTuple

import numpy as np
from numba import get_num_threads, prange

from tinymnv1.kernels.compile import aligned_zeros, parallel, serial
from tinymnv1.kernels.simd import (
    GRADIENT_ROWS,
    LANES,
    PANEL,
    TILE_ROWS,
    TILE_VECTORS,
    numbers_in,
    product_tile,
    store_pair,
    transpose_block,
    vadd,
    vclip,
    vfma,
    vload,
    vload_tail,
    vmul,
    vsplat,
    vstore,
    vstore_along,
    vstore_rows,
    vstore_tail,
    vsub,
    vzero,
)
from tinymnv1.ops.window import Array

COEFFICIENTS = 7
SCALE, SHIFT, MEAN, INV_STD, ALONG_DY, ALONG_Z, CONSTANT = range(COEFFICIENTS)

BLOCK_ROWS = 126 // TILE_ROWS * TILE_ROWS
"""Rows of a block: long enough for the product to pay for what it loads, short enough for the second-level cache."""

PACK_ROWS = 8
"""Rows that `pack` reads side by side: as many places at once as the processor sees coming."""

_tile = product_tile(TILE_ROWS, TILE_VECTORS, transposed=False)
_tile1 = product_tile(TILE_ROWS, 1, transposed=False)
_transposed = product_tile(GRADIENT_ROWS, TILE_VECTORS, transposed=True, adds=True)
_transposed1 = product_tile(GRADIENT_ROWS, 1, transposed=True, adds=True)


class Window(NamedTuple):
    """How a 3x3 convolution's output meets its input: output row r sees input row r * stride - top and the next two."""

    images: int
    height: int
    width: int
    out_h: int
    out_w: int
    stride: int
    top: int
    left: int


@serial
def as_window(numbers):
    """The Window of these eight int64. From Python they come as an array: a NamedTuple takes Numba 2 us to look at."""
    n = numbers
    return Window(n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7])


def padded(channels: int) -> int:
    """Floats of a row of so many channels: a whole number of vectors."""
    return -(-channels // LANES) * LANES


def spread(channels: int) -> int:
    """The distance of a block's rows in scratch memory: one vector more than a row.

    Rows a power of two apart would share a few sets of the first-level cache, and push each other out of it.
    """
    return padded(channels) + LANES


def no_norm(channels: int) -> Array:
    """The coefficients where there is no batch norm: y = 1 z + 0 and dz = 1 dy + 0 z + 0."""
    bn = aligned_zeros(COEFFICIENTS * padded(channels)).reshape(COEFFICIENTS, -1)
    bn[[SCALE, ALONG_DY]] = 1
    return bn.reshape(-1)


def blocks_of(rows: int, most: int = BLOCK_ROWS) -> tuple[int, int]:
    """(rows of a block, number of blocks): equal blocks, whole tiles, of at most so many rows."""
    block = whole_tiles(-(-rows // -(-rows // most)))
    return block, -(-rows // block)


def shares_of_columns(blocks: int, width: int) -> int:
    """Into how many shares the `width` columns of a product are cut, if its rows are cut into so many blocks.

    A unit of work is a block and a share, and makes the block anew from what it reads: so there are as few shares as
    leave the threads idle for no more than a twentieth of the time, if all units took the same; a share for each panel,
    if no number of shares does. How many depends on the number of threads, but the result does not.
    """
    threads, panels = get_num_threads(), -(-width // PANEL)
    for shares in range(1, panels):
        units = blocks * shares
        if units >= 0.95 * threads * -(-units // threads):
            return shares
    return panels


def whole_tiles(rows: int) -> int:
    """rows, rounded up to whole register tiles of a product."""
    return -(-rows // TILE_ROWS) * TILE_ROWS


def whole_gradient_tiles(channels: int) -> int:
    """Rows of a weights' gradient, rounded up to whole register tiles."""
    return -(-channels // GRADIENT_ROWS) * GRADIENT_ROWS


@serial
def activate(z, iz, rows, width, bn, low, high, a, ia, lda):
    """a[r, :] = clip(scale z[r, :] + shift, low, high) for so many rows; z: rows of width floats; lda apart in a.

    a: floats, or pairs along the rows.
    """
    bottom, top = vsplat(low), vsplat(high)
    for _ in range(rows):
        for c in range(0, width, LANES):
            y = vfma(vload(z, iz + c), vload(bn, SCALE * width + c), vload(bn, SHIFT * width + c))
            vstore_along(a, ia, c, vclip(y, bottom, top))
        iz += width
        ia += lda


@serial
def gradient(dy, z, iz, rows, width, bn, dz, along, ld_along, across, ld_across):
    """dz of a batch norm, from so many rows of dy and z, both from index iz on: rows, ld_along apart from dz[along] on.

    dz: floats, and across is -1; or pairs along the rows, and from dz[across] on, if that is not below 0, pairs across
    them as well, ld_across apart. With an odd number of rows the last one's partner is zero.
    """
    for r in range(0, rows, 2):
        for c in range(0, width, LANES):
            from_dy, from_z = vload(bn, ALONG_DY * width + c), vload(bn, ALONG_Z * width + c)
            constant = vload(bn, CONSTANT * width + c)
            d0 = vfma(vload(dy, iz + c), from_dy, vfma(vload(z, iz + c), from_z, constant))
            vstore_along(dz, along, c, d0)
            d1 = vzero()
            if r + 1 < rows:
                place = iz + width + c
                d1 = vfma(vload(dy, place), from_dy, vfma(vload(z, place), from_z, constant))
                vstore_along(dz, along + ld_along, c, d1)
            if across >= 0:
                vstore_rows(dz, across + r // 2 * ld_across + c, 0, d0, d1)
        iz += 2 * width
        along += 2 * ld_along


@serial
def terms(a, count):
    """Elements of a that so many numbers fill: half as many, rounded up, if they are pairs."""
    return (count + numbers_in(a) - 1) // numbers_in(a)


@serial
def fill_zero(a, i, count):
    """a[i : i + count] = 0; count is a whole number of vectors."""
    for k in range(i, i + count, LANES):
        vstore(a, k, vzero())


@serial
def product(a, ia, lda, depth, rows, packed, first, last, y, iy, ldy):
    """y[r, v] = a[r, :depth] @ weights[:, v] for the vectors of columns v from first up to last.

    first is a multiple of TILE_VECTORS. rows is rounded up to whole tiles. packed: as `pack` arranges it; floats like
    a, or pairs like a, and then depth is the number of pairs.
    """
    v = first
    while v < last:
        place = v * depth * LANES
        if v + TILE_VECTORS <= last:
            for r in range(0, rows, TILE_ROWS):
                _tile(a, ia + r * lda, lda, depth, packed, place, PANEL, y, iy + r * ldy + v * LANES, ldy)
            v += TILE_VECTORS
        else:
            for r in range(0, rows, TILE_ROWS):
                _tile1(a, ia + r * lda, lda, depth, packed, place, LANES, y, iy + r * ldy + v * LANES, ldy)
            v += 1


@serial
def add_product_transposed(a, ia, lda, depth, rows, dz, idz, ldz, vectors, dw, idw, ldw):
    """dw[k, v] += sum over so many rows r of a[r, k] * dz[r, v], for k < depth and the first `vectors` vectors v.

    depth is rounded up to whole tiles, in dw and in what is read of a's rows.
    a and dz: floats; or pairs across the rows, and then `rows` is the number of pairs.
    """
    v = 0
    while v < vectors:
        if v + TILE_VECTORS <= vectors:
            for k in range(0, depth, GRADIENT_ROWS):
                place = idw + k * ldw + v * LANES
                _transposed(a, ia + k, lda, rows, dz, idz + v * LANES, ldz, dw, place, ldw)
            v += TILE_VECTORS
        else:
            for k in range(0, depth, GRADIENT_ROWS):
                place = idw + k * ldw + v * LANES
                _transposed1(a, ia + k, lda, rows, dz, idz + v * LANES, ldz, dw, place, ldw)
            v += 1


@serial
def share_of_panels(group, groups, vectors):
    """The vectors of columns, from first up to last, of one of so many equal shares of the panels."""
    panels = (vectors + TILE_VECTORS - 1) // TILE_VECTORS
    first = group * panels // groups * TILE_VECTORS
    return first, min((group + 1) * panels // groups * TILE_VECTORS, vectors)


@serial
def block_moments(z, iz, width, rows, first, last, partial, i):
    """Mean and sum of squared deviations of a block's columns: partial[i + c] and partial[i + width + c].

    For the vectors of columns c from first up to last. Two passes over a block that is still in the cache: the
    deviations are from the block's own mean, so no digits are lost; `moments.py` puts the blocks together.
    Four sums side by side, since an addition takes four cycles and each sum must wait for its last one.
    """
    share = vsplat(1 / rows)
    whole = rows // 4 * 4
    for c in range(first * LANES, last * LANES, LANES):
        s0, s1, s2, s3 = vzero(), vzero(), vzero(), vzero()
        place = iz + c
        for _ in range(0, whole, 4):
            s0, s1 = vadd(s0, vload(z, place)), vadd(s1, vload(z, place + width))
            s2, s3 = vadd(s2, vload(z, place + 2 * width)), vadd(s3, vload(z, place + 3 * width))
            place += 4 * width
        for _ in range(whole, rows):
            s0 = vadd(s0, vload(z, place))
            place += width
        mean = vmul(vadd(vadd(s0, s1), vadd(s2, s3)), share)
        s0, s1, s2, s3 = vzero(), vzero(), vzero(), vzero()
        place = iz + c
        for _ in range(0, whole, 4):
            d0, d1 = vsub(vload(z, place), mean), vsub(vload(z, place + width), mean)
            d2, d3 = vsub(vload(z, place + 2 * width), mean), vsub(vload(z, place + 3 * width), mean)
            s0, s1, s2, s3 = vfma(d0, d0, s0), vfma(d1, d1, s1), vfma(d2, d2, s2), vfma(d3, d3, s3)
            place += 4 * width
        for _ in range(whole, rows):
            d0 = vsub(vload(z, place), mean)
            s0 = vfma(d0, d0, s0)
            place += width
        vstore(partial, i + c, mean)
        vstore(partial, i + width + c, vadd(vadd(s0, s1), vadd(s2, s3)))


@serial
def _packed_place(v, rows, vectors):
    """Where vector v of columns begins in packed weights of so many rows, and how far its rows are apart."""
    p = v // TILE_VECTORS * TILE_VECTORS
    if p + TILE_VECTORS <= vectors:
        return p * rows * LANES + (v - p) * LANES, PANEL
    return v * rows * LANES, LANES


@serial
def _pack_rows(top, w, depth, columns, first, last, packed):
    """PACK_ROWS rows of packed, or as many as there are from `top` on; vectors from first up to last."""
    vectors, numbers, rows = (columns + LANES - 1) // LANES, numbers_in(packed), terms(packed, depth)
    for v in range(first, last):
        place, step = _packed_place(v, rows, vectors)
        place -= first * rows * LANES
        n = columns - v * LANES
        for k in range(top, min(top + PACK_ROWS, rows)):
            i, second = k * numbers * columns + v * LANES, k * numbers + 1
            x = vload(w, i) if n >= LANES else vload_tail(w, i, n)
            if numbers == 1:
                vstore(packed, place + k * step, x)
            else:
                y = vload_tail(w, i + columns, n) if second < depth else vzero()
                vstore_rows(packed, place + k * step, 0, x, y)


@serial
def _pack_transposed(panel, w, depth, columns, first, packed):
    """One panel, whose columns are rows of w; the last one may be less than a panel."""
    vectors, numbers, rows = (columns + LANES - 1) // LANES, numbers_in(packed), terms(packed, depth)
    zero, begin = np.float32(0), panel * TILE_VECTORS
    for k0 in range(0, depth, LANES):
        for v in range(begin, min(begin + TILE_VECTORS, vectors)):
            place, step = _packed_place(v, rows, vectors)
            place -= first * rows * LANES
            c0 = v * LANES
            if c0 + LANES <= columns and k0 + LANES <= depth:
                transpose_block(w, c0 * depth + k0, depth, packed, place + k0 // numbers * step, step)
            else:
                for k in range(k0 // numbers, min((k0 + LANES) // numbers, rows)):
                    for c in range(c0, c0 + LANES):
                        i, second = c * depth + k * numbers, k * numbers + 1
                        x = w[i] if c < columns else zero
                        y = w[i + 1] if c < columns and second < depth else zero
                        store_pair(packed, place + k * step + c - c0, x, y)


@serial
def _pack_unit(unit, w, depth, columns, transposed, packed):
    nothing, vectors = np.int64(0), (columns + LANES - 1) // LANES
    if transposed:
        _pack_transposed(unit, w, depth, columns, nothing, packed)
    else:
        _pack_rows(unit * PACK_ROWS, w, depth, columns, nothing, vectors, packed)


@parallel
def pack(w, depth, columns, transposed, packed):
    """The weights w (depth, columns), flat, as `product` reads them; zero beyond the last column.

    Panel by panel of PANEL columns, in which a row of the panel follows the other. Vectors of columns that do not
    fill a panel have a panel of LANES columns each. Either way, a panel whose first vector is v begins at
    v * depth * LANES; if packed holds pairs (w[k, c], w[k + 1, c]), at v * terms * LANES.
    transposed: w is (columns, depth), and its transpose is packed.

    A unit of work is a few rows of w: a whole panel of long rows would touch a page of memory for each line.
    """
    units = (columns + PANEL - 1) // PANEL if transposed else (terms(packed, depth) + PACK_ROWS - 1) // PACK_ROWS
    for unit in prange(units):
        _pack_unit(np.int64(unit), w, depth, columns, transposed, packed)


@serial
def pack_share(w, depth, columns, transposed, first, last, packed):
    """`pack`, by one thread, of the panels from vector `first` up to `last` only; the first of them begins at 0."""
    if transposed:
        for panel in range(first // TILE_VECTORS, (last + TILE_VECTORS - 1) // TILE_VECTORS):
            _pack_transposed(panel, w, depth, columns, first, packed)
    else:
        for top in range(0, terms(packed, depth), PACK_ROWS):
            _pack_rows(top, w, depth, columns, first, last, packed)


@serial
def _sum_row(partial, i, chunks, chunk_size, columns, total, place):
    for c in range(0, columns, LANES):
        n = columns - c
        s = vload_tail(partial, i + c, n)
        for chunk in range(1, chunks):
            s = vadd(s, vload_tail(partial, i + chunk * chunk_size + c, n))
        if n >= LANES:
            vstore(total, place + c, s)
        else:
            vstore_tail(total, place + c, s, n)


@parallel
def sum_chunks(partial, chunks, chunk_size, ld, rows, columns, total):
    """total[r, c] = sum over the chunks of partial[chunk, r, c]; total: rows of `columns`; partial: rows ld apart."""
    for row in prange(rows):
        r = np.int64(row)
        _sum_row(partial, r * ld, chunks, chunk_size, columns, total, r * columns)
