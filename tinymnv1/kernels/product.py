"""Matrix products of plain arrays: what the layers' pointwise convolutions, stem and classifier are made of.

    multiply(x, w)              x (M, K) @ w (K, N)         forward; and, with w.T, the gradient of x
    multiply_transposed(x, dy)  x (M, K).T @ dy (M, N)      the gradient of w

They run on register tiles, which know no ends of rows. So a block of x is first copied into scratch memory, rows
`spread` apart. A tile that would reach beyond y's last row or column goes to scratch memory, too, and what belongs to y
is copied from there. Where the rows are so short that a copy costs more than it gains (`NARROW`), and those of y end
with a whole vector, the tiles of the first product read x themselves. How the second one is cut is in
`gradient_parts.py`.

Where x and y are more than the caches hold, a product of short rows waits for memory: for x, which six or fourteen rows
at once are too many places for the processor to see what comes next; and for y, which is read before it is written. So
the tiles ask for x as they go, and write y past the caches (`streaming_tile`). On AVX2 (Zen 3), 100,352 rows, that is
1.4 times the speed from 64 to 32 channels, 1.25 from 32 to 64, 1.15 from 64 to 64, 1.05 to 1.1 from 128 or 256 to as
many. What comes next finds less of y in the third-level cache: with a batch norm after it, 0.96 to 1.07.

Where partial sums are added in the end, the shapes alone say into how many parts the work is cut, and no two threads
add into the same number: so results do not depend on the number of threads.
"""

import numpy as np
from numba import get_thread_id, prange

from tinymnv1.kernels.blocks import (
    BLOCK_ROWS,
    blocks_of,
    fill_zero,
    pack,
    padded,
    product,
    share_of_panels,
    shares_of_columns,
    spread,
    sum_chunks,
)
from tinymnv1.kernels.compile import CHUNKS, LINE_FLOATS, aligned, far, parallel, scratch_memory, serial
from tinymnv1.kernels.gradient_parts import (
    GRADIENT_BLOCK,
    add_part,
    copy_panels,
    copy_tiles,
    how_many,
    part_floats,
    part_of,
    shared_out,
    whole_gradient,
)
from tinymnv1.kernels.simd import (
    LANES,
    PANEL,
    TILE_ROWS,
    TILE_VECTORS,
    streaming_tile,
    vload,
    vload_tail,
    vstore,
    vstore_tail,
)
from tinymnv1.ops.window import Array

SMALL_WEIGHTS = 1 << 15
"""Up to so many weights, `multiply_transposed` gives every chunk of rows its own sum; above, there is enough to share
out among the rows and columns of the result instead."""

BLOCK_FLOATS = 1 << 16
"""A block of x has fewer than BLOCK_ROWS rows where these would be more floats: half of a small second-level cache."""

NARROW = 64
"""Rows of up to so many floats need no copy: a block of them is one piece, smaller than the first-level cache."""

NARROW_STREAM = 256
"""The same where x and y are in memory, and the tiles ask for x as they go (`_stream_panel`)."""

AHEAD_FLOATS = 2048
"""How far ahead: 8 KiB. Half of it and twice as much were as fast."""

_stream = streaming_tile(TILE_ROWS, TILE_VECTORS)


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
def _stream_panel(x, ix, depth, rows, packed, v, y, iy, columns):
    """`product` for one whole panel, whose first vector is v, and whole tiles; of x and y that are in memory."""
    for r in range(0, rows, TILE_ROWS):
        place, to = ix + r * depth, iy + r * columns + v * LANES
        _stream(x, place, depth, depth, packed, v * depth * LANES, PANEL, y, to, columns, place + AHEAD_FLOATS)


@serial
def _multiply_unit(unit, x, packed, y, rows, depth, columns, block, blocks, groups, in_place, streams, lda, a):
    group, start = unit // blocks, unit % blocks * block
    first, last = share_of_panels(group, groups, (columns + LANES - 1) // LANES)
    count, edge = min(block, rows - start), block * lda
    whole = count // TILE_ROWS * TILE_ROWS
    if in_place:
        tiles, place, ldt = x, start * depth, depth
        _copy_in(x, (start + whole) * depth, depth, count - whole, depth, a, whole * lda, lda)
    else:
        tiles, place, ldt = a, 0, lda
        _copy_in(x, start * depth, depth, count, depth, a, 0, lda)
    v = first
    while v < last:
        end = min(v + TILE_VECTORS, last)
        done = whole if end * LANES <= columns else 0
        if streams:
            _stream_panel(tiles, place, depth, done, packed, v, y, start * columns, columns)
        elif done > 0:
            product(tiles, place, ldt, depth, done, packed, v, end, y, start * columns, columns)
        if done < count:
            rest, c = count - done, v * LANES  # `product` adds v * LANES to where it writes: hence edge - c
            product(a, done * lda, lda, depth, rest, packed, v, end, a, edge - c, PANEL)
            _copy_out(a, edge, PANEL, rest, min(end * LANES, columns) - c, y, (start + done) * columns + c, columns)
        v = end


@parallel
def _multiply(x, packed, y, rows, depth, columns, block, blocks, groups, in_place, streams, lda, scratch):
    """A unit of work is a block of rows, and one of `groups` equal shares of the panels.

    in_place: tiles read x where it lies, and copy only the rows of the last one.  streams: by `_stream_panel`.
    """
    for unit in prange(blocks * groups):
        a = scratch[get_thread_id()]
        _multiply_unit(
            np.int64(unit), x, packed, y, rows, depth, columns, block, blocks, groups, in_place, streams, lda, a
        )


@serial
def _add_unit(unit, chunks, parts, x, dy, dw, rows, depth, columns, a):
    chunk, width = unit % chunks, parts.width
    top, bottom, begin, end, dz = part_of(unit // chunks, parts)
    idw, last = (chunk * parts.tall + top) * width + begin, (chunk + 1) * rows // chunks
    for k in range(bottom - top):
        fill_zero(dw, idw + k * width, end - begin)
    for start in range(chunk * rows // chunks, last, parts.block):
        count, numbers = min(parts.block, last - start), min(bottom, depth) - top
        copy_tiles(x, start * depth + top, depth, count, numbers, a, parts.tile)
        copy_panels(dy, start * columns + begin, columns, count, min(end, columns) - begin, a, dz, parts.panel)
        add_part(a, parts, numbers, count, dz, end - begin, dw, idw, width)


@parallel
def _add_products(chunks, parts, x, dy, dw, rows, depth, columns, scratch):
    """dw[chunk] = x[rows].T @ dy[rows] for each chunk of the rows. A unit of work is a part of one chunk's dw."""
    for unit in prange(chunks * how_many(parts)):
        _add_unit(np.int64(unit), chunks, parts, x, dy, dw, rows, depth, columns, scratch[get_thread_id()])


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
    # Past the caches go whole lines only. A panel that reaches beyond y's last column takes all its rows from scratch
    # memory, so for tiles to read x in place, y must end with a whole vector.
    streams = bool(far(x, y)) and depth <= NARROW_STREAM and columns % PANEL == PANEL % LINE_FLOATS == 0
    in_place = streams or (depth <= NARROW and columns % LANES == 0)
    lda = spread(depth)
    scratch = scratch_memory(block * (lda + PANEL))
    _multiply(x.reshape(-1), packed, y, rows, depth, columns, block, blocks, groups, in_place, streams, lda, scratch)
    return y.reshape(rows, columns)


def multiply_transposed(x: Array, dy: Array) -> Array:
    """x.T @ dy. x: (M, K), dy: (M, N), float32, C-contiguous.  Returns (K, N)."""
    (rows, depth), columns = x.shape, dy.shape[1]
    chunks = min(CHUNKS, -(-rows // GRADIENT_BLOCK)) if depth * columns <= SMALL_WEIGHTS else 1
    whole = whole_gradient(-(-rows // chunks), depth, columns)
    parts, size = whole if chunks > 1 else shared_out(whole), whole.tall * whole.width
    dw, scratch = aligned(chunks * size), scratch_memory(part_floats(parts))
    _add_products(chunks, parts, x.reshape(-1), dy.reshape(-1), dw, rows, depth, columns, scratch)
    if chunks == 1:
        return np.ascontiguousarray(dw.reshape(-1, whole.width)[:depth, :columns])
    total = aligned(depth * columns)
    sum_chunks(dw, chunks, size, whole.width, depth, columns, total)
    return total.reshape(depth, columns)
