"""Matrix products of plain arrays: what the layers' pointwise convolutions, stem and classifier are made of.

    multiply(x, w)              x (M, K) @ w (K, N)         forward; and, with w.T, the gradient of x
    multiply_transposed(x, dy)  x (M, K).T @ dy (M, N)      the gradient of w

They run on the register tiles of `blocks.py`, which know no ends of rows. So a block of x is first copied into scratch
memory, rows `spread` apart. A tile that would reach beyond y's last row or column goes to scratch memory, too, and what
belongs to y is copied from there. Where the rows are so short that a copy costs more than it gains (`NARROW`,
`NARROW_GRADIENT`), and end with a whole vector where it matters, the tiles read x and dy themselves.

Where partial sums are added in the end, the shapes alone say into how many parts the work is cut, and no two threads
add into the same number: so results do not depend on the number of threads.
"""

import numpy as np
from numba import get_num_threads, get_thread_id, prange

from tinymnv1.kernels.blocks import (
    BLOCK_ROWS,
    add_product_transposed,
    add_to_part,
    blocks_of,
    fill_zero,
    pack,
    padded,
    product,
    share_of_panels,
    shares_of_columns,
    spread,
    sum_chunks,
    whole_gradient_tiles,
)
from tinymnv1.kernels.compile import CHUNKS, aligned, parallel, scratch_memory, serial
from tinymnv1.kernels.simd import (
    GRADIENT_ROWS,
    LANES,
    PANEL,
    TILE_ROWS,
    TILE_VECTORS,
    vload,
    vload_tail,
    vstore,
    vstore_tail,
)
from tinymnv1.ops.window import Array

SMALL_WEIGHTS = 1 << 15
"""Up to so many weights, `multiply_transposed` gives every chunk of rows its own sum; above, there is enough to share
out among the rows and columns of the result instead."""

PART_ROWS, PART_COLUMNS = 256, 128
"""A part of the weights' gradient: 128 KiB, and with a block of both factors less than 400 KiB."""

BLOCK_FLOATS = 1 << 16
"""A block of x has fewer than BLOCK_ROWS rows where these would be more floats: half of a small second-level cache."""

NARROW = 64
"""Rows of up to so many floats need no copy: a block of them is one piece, smaller than the first-level cache."""

NARROW_GRADIENT = 256 if LANES == 16 else NARROW
"""The same for the weights' gradient. Its tiles read a few neighbouring numbers of each row; with AVX-512 that is whole
cache lines, which they need less often, and to copy the rows costs more than it gains."""


@serial
def _copy_in(x, ix, ldx, rows, columns, a, ia, lda):
    """Rows of x into a, lda apart; zeros up to the next whole vector."""
    for _ in range(rows):
        for c in range(0, columns, LANES):
            n = columns - c
            vstore(a, ia + c, vload(x, ix + c) if n >= LANES else vload_tail(x, ix + c, n))
        ix += ldx
        ia += lda


@serial
def _copy_out(a, ia, lda, rows, columns, y, iy, ldy):
    """Rows of a, lda apart, into y."""
    for _ in range(rows):
        for c in range(0, columns, LANES):
            n = columns - c
            if n >= LANES:
                vstore(y, iy + c, vload(a, ia + c))
            else:
                vstore_tail(y, iy + c, vload(a, ia + c), n)
        ia += lda
        iy += ldy


@serial
def _multiply_unit(unit, x, packed, y, rows, depth, columns, block, blocks, groups, lda, a):
    group, start = unit // blocks, unit % blocks * block
    first, last = share_of_panels(group, groups, (columns + LANES - 1) // LANES)
    count, edge = min(block, rows - start), block * lda
    whole = count // TILE_ROWS * TILE_ROWS
    # A panel that reaches beyond y's last column takes all its rows from a, so y must end with a whole vector if only
    # the rows of the last tile are to be copied there.
    if depth <= NARROW and columns % LANES == 0:
        tiles, place, ldt = x, start * depth, depth
        _copy_in(x, (start + whole) * depth, depth, count - whole, depth, a, whole * lda, lda)
    else:
        tiles, place, ldt = a, 0, lda
        _copy_in(x, start * depth, depth, count, depth, a, 0, lda)
    v = first
    while v < last:
        end = min(v + TILE_VECTORS, last)
        done = whole if end * LANES <= columns else 0
        if done > 0:
            product(tiles, place, ldt, depth, done, packed, v, end, y, start * columns, columns)
        if done < count:
            rest, c = count - done, v * LANES  # `product` adds v * LANES to where it writes: hence edge - c
            product(a, done * lda, lda, depth, rest, packed, v, end, a, edge - c, PANEL)
            _copy_out(a, edge, PANEL, rest, min(end * LANES, columns) - c, y, (start + done) * columns + c, columns)
        v = end


@parallel
def _multiply(x, packed, y, rows, depth, columns, block, blocks, groups, lda, scratch):
    """A unit of work is a block of rows, and one of `groups` equal shares of the panels."""
    for unit in prange(blocks * groups):
        a = scratch[get_thread_id()]
        _multiply_unit(np.int64(unit), x, packed, y, rows, depth, columns, block, blocks, groups, lda, a)


@serial
def _add_chunk(chunk, chunks, x, dy, dw, rows, depth, columns, block, lda, ldz, width, tall, a):
    idw, dz = chunk * tall * width, block * lda
    fill_zero(dw, idw, tall * width)
    last = (chunk + 1) * rows // chunks
    for start in range(chunk * rows // chunks, last, block):
        count = min(block, last - start)
        # A tile reads `tall` numbers from each row of x on, `tall - depth` of them for rows of a tile that dw lacks.
        if depth <= NARROW_GRADIENT and (rows - start - count) * depth >= tall - depth:
            left, il, ldl = x, start * depth, depth
        else:
            left, il, ldl = a, 0, lda
            _copy_in(x, start * depth, depth, count, depth, a, 0, lda)
        if columns <= NARROW_GRADIENT and columns % LANES == 0:
            right, ir, ldr = dy, start * columns, columns
        else:
            right, ir, ldr = a, dz, ldz
            _copy_in(dy, start * columns, columns, count, columns, a, dz, ldz)
        add_product_transposed(left, il, ldl, depth, count, right, ir, ldr, width // LANES, dw, idw, width)


@serial
def _add_part(top, bottom, begin, end, x, dy, dw, rows, depth, columns, block, lda, width, a):
    panel, dz, numbers = block * PANEL, block * lda, min(bottom, depth) - top
    for k in range(top, bottom):
        fill_zero(dw, k * width + begin, end - begin)
    for start in range(0, rows, block):
        count = min(block, rows - start)
        _copy_in(x, start * depth + top, depth, count, numbers, a, 0, lda)
        for c in range(begin, end, PANEL):
            place = dz + (c - begin) // PANEL * panel
            _copy_in(dy, start * columns + c, columns, count, min(PANEL, columns - c), a, place, PANEL)
        add_to_part(a, 0, lda, numbers, count, a, dz, panel, begin, end, dw, top * width, width)


@parallel
def _add_products(x, dy, dw, rows, depth, columns, block, chunks, part, lda, ldz, width, tall, scratch):
    """dw[chunk] = x[rows].T @ dy[rows] for each chunk of the rows; or, with one chunk, in parts (rows, columns) of dw.

    A part copies its own columns of x and dy, block by block: its two factors and its part of dw then stay in the
    second-level cache.
    """
    if chunks > 1:
        for chunk in prange(chunks):
            a = scratch[get_thread_id()]
            _add_chunk(np.int64(chunk), chunks, x, dy, dw, rows, depth, columns, block, lda, ldz, width, tall, a)
    else:
        part_rows, part_columns = part
        down = (tall + part_rows - 1) // part_rows
        for p in prange(down * ((width + part_columns - 1) // part_columns)):
            a, top, begin = scratch[get_thread_id()], np.int64(p) % down * part_rows, np.int64(p) // down * part_columns
            bottom, end = min(top + part_rows, tall), min(begin + part_columns, width)
            _add_part(top, bottom, begin, end, x, dy, dw, rows, depth, columns, block, lda, width, a)


def multiply(x: Array, w: Array) -> Array:
    """x @ w. x: (M, K) float32, C-contiguous.  w: (K, N) float32, of any layout.  Returns (M, N)."""
    (rows, depth), columns = x.shape, w.shape[1]
    packed = aligned(padded(columns) * depth)
    if w.T.flags.c_contiguous and not w.flags.c_contiguous:
        pack(w.T.reshape(-1), depth, columns, True, packed)
    else:
        pack(np.ascontiguousarray(w).reshape(-1), depth, columns, False, packed)
    y = aligned(rows * columns)
    block, blocks = blocks_of(rows, min(BLOCK_ROWS, max(BLOCK_FLOATS // depth // TILE_ROWS, 1) * TILE_ROWS))
    groups = shares_of_columns(blocks, columns)
    scratch = scratch_memory(block * (spread(depth) + PANEL))
    _multiply(x.reshape(-1), packed, y, rows, depth, columns, block, blocks, groups, spread(depth), scratch)
    return y.reshape(rows, columns)


def multiply_transposed(x: Array, dy: Array) -> Array:
    """x.T @ dy. x: (M, K), dy: (M, N), float32, C-contiguous.  Returns (K, N)."""
    (rows, depth), columns = x.shape, dy.shape[1]
    width, tall = padded(columns), whole_gradient_tiles(depth)
    block = min(BLOCK_ROWS, rows)
    chunks = min(CHUNKS, -(-rows // block)) if depth * columns <= SMALL_WEIGHTS else 1
    part = (depth, columns) if chunks > 1 else part_of_gradient(depth, columns)
    dw = aligned(chunks * tall * width)
    lda, ldz = spread(part[0]), spread(part[1])
    scratch = scratch_memory(block * (lda + ldz + PANEL) + PANEL)
    _add_products(
        x.reshape(-1), dy.reshape(-1), dw, rows, depth, columns, block, chunks, part, lda, ldz, width, tall, scratch
    )  # fmt: skip
    if chunks == 1:
        return np.ascontiguousarray(dw.reshape(tall, width)[:depth, :columns])
    total = aligned(depth * columns)
    sum_chunks(dw, chunks, tall * width, width, depth, columns, total)
    return total.reshape(depth, columns)


def part_of_gradient(depth: int, columns: int) -> tuple[int, int]:
    """Into parts of how many rows and columns a weights' gradient of (depth, columns) is cut: whole register tiles.

    At most PART_ROWS by PART_COLUMNS, and a part for each thread while there are tiles; then rounded up to whole
    tiles, so that there may be a few parts less. The fewer and the squarer, the less often x and dy are read. The cut
    depends on the number of threads, but the result does not: each number is summed in the same order in any part.
    """
    tiles, panels, threads = -(-depth // GRADIENT_ROWS), -(-columns // PANEL), get_num_threads()
    down, across = -(-depth // PART_ROWS), -(-columns // PART_COLUMNS)
    while down * across < min(threads, tiles * panels):
        if across == panels or (down < tiles and depth * across > columns * down):
            down += 1
        else:
            across += 1
    return -(-tiles // down) * GRADIENT_ROWS, -(-panels // across) * PANEL
