"""The product y = x w, part by part: how it is cut, and what a unit of work does with a block of rows.

x has `depth` numbers a row, w as many rows, y has `columns`. A unit of work makes one part of y, a chunk of its rows by
a share of its columns. It packs its columns of w into its scratch memory, in the order in which the register tile reads
them; then it takes its rows block by block, and multiplies each with one panel of w after the other, so that both stay
in a core's own caches (Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication"):

    w   panel by panel of PANEL columns: a panel is read again for each tile of a block's rows
    x   copied, rows `spread` apart: a block is read again for each panel

A thread that packs for itself waits for nobody, and finds in its cache what it has packed. While it multiplies the last
panel, it asks for the next block's rows, which the copy then finds in the cache (`asking_tile`).

Where the rows are so short that a copy costs more than it gains, tiles read x where it lies. And where x and y are more
than the caches hold, a product of short rows waits for memory: for x, which six or fourteen rows at once are too many
places for the processor to see what comes next; and for y, which is read before it is written. So its tiles ask for x
as they go, and write y past the caches. On AVX2 (Zen 3), 100,352 rows, that is 1.4 times the speed from 64 to 32
channels, 1.25 from 32 to 64, 1.15 from 64 to 64, 1.05 to 1.1 from 128 or 256 to as many. What comes next finds less of
y in the third-level cache: with a batch norm after it, 0.96 to 1.07.
"""

from functools import cache
from typing import NamedTuple

from numba import get_num_threads

from tinymnv1.kernels.blocks import BLOCK_ROWS, blocks_of, pack_share, product, share_of_panels, spread
from tinymnv1.kernels.compile import LINE_FLOATS, serial
from tinymnv1.kernels.simd import (
    LANES,
    PANEL,
    TILE_ROWS,
    TILE_VECTORS,
    asking_tile,
    vload,
    vload_tail,
    vstore,
    vstore_tail,
)

BLOCK_FLOATS = LANES << 12
"""A block has fewer than BLOCK_ROWS rows where these would be more floats. A quarter of the second-level cache, 512 KiB
on Zen 3 and 1 MiB or more where there are 16 lanes: the next block comes before this one is done."""

NARROW = 64
"""Rows of up to so many floats need no copy: a block of them is one piece, smaller than the first-level cache."""

NARROW_STREAM = 256
"""The same where x and y are in memory, and the tiles ask for x as they go."""

AHEAD_FLOATS = 2048
"""How far ahead these ask: 8 KiB. Half of it and twice as much were as fast."""

COPIED = 16
"""What it costs to copy a number of x or to pack one of w, in multiply-adds; roughly."""

_ask = asking_tile(TILE_ROWS, TILE_VECTORS, streams=False)
_stream = asking_tile(TILE_ROWS, TILE_VECTORS, streams=True)


class ProductParts(NamedTuple):
    """y is cut into `chunks` of its rows by `shares` of its columns.

    block: of so many rows at a time.  edge: where a unit's scratch memory goes on behind its packed weights.
    in_place: tiles read x where it lies.  streams: and they write y past the caches.
    """

    chunks: int
    shares: int
    block: int
    edge: int
    in_place: bool
    streams: bool


@cache
def _cut(rows: int, columns: int, threads: int) -> tuple[int, int]:
    """(chunks, shares): what takes the least time, when each share copies its rows, and each chunk packs its columns.

    How many depends on the number of threads, but the result does not: each number of y is one sum in any part.
    """
    tiles, panels = -(-rows // TILE_ROWS), -(-columns // PANEL)

    def time(cut: tuple[int, int]) -> int:
        height, width = -(-tiles // cut[0]) * TILE_ROWS, -(-panels // cut[1]) * PANEL
        return -(-cut[0] * cut[1] // threads) * (height * width + COPIED * (height + width))

    chunks, shares = range(1, min(tiles, threads) + 1), range(1, min(panels, threads) + 1)
    return min(((c, s) for c in chunks for s in shares), key=time)


def product_parts(rows: int, depth: int, columns: int, is_far: bool) -> ProductParts:
    """How to cut x (rows, depth) @ w (depth, columns).  is_far: x and y are more than the caches hold."""
    chunks, shares = _cut(rows, columns, get_num_threads())
    block, _ = blocks_of(-(-rows // chunks), min(BLOCK_ROWS, max(BLOCK_FLOATS // depth // TILE_ROWS, 1) * TILE_ROWS))
    panels = -(-columns // PANEL)
    edge = -(-panels // shares) * PANEL * depth
    # Past the caches go whole lines only.
    streams = is_far and depth <= NARROW_STREAM and columns % PANEL == PANEL % LINE_FLOATS == 0
    return ProductParts(chunks, shares, block, edge, streams or depth <= NARROW, streams)


def product_floats(parts: ProductParts, depth: int) -> int:
    """Floats of scratch memory that a part needs: its weights, a panel of y's last rows or columns, a block of x."""
    return parts.edge + parts.block * (PANEL + spread(depth))


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
def _ask_panel(tile, a, ia, lda, depth, rows, packed, v, y, iy, ldy, x, ahead):
    """`product` for the whole panel whose first vector is v, and whole tiles, which ask for x from x[ahead] on."""
    place, iy = v * depth * LANES, iy + v * LANES
    for r in range(0, rows, TILE_ROWS):
        tile(a, ia + r * lda, lda, depth, packed, place, PANEL, y, iy + r * ldy, ldy, x, ahead + r * depth)


@serial
def _multiply_block(top, rows, x, depth, first, last, y, columns, parts, a):
    """So many rows of y from row `top` on; the vectors of columns from first up to last, with whose weights a begins.

    Of rows that are not whole tiles, and of the columns of a panel that reaches beyond y's last one, tiles write into
    scratch memory, and what belongs to y is copied from there.
    """
    whole, edge = rows % TILE_ROWS == 0, parts.edge
    tiles, place, lda = x, top * depth, depth
    if not (whole and parts.in_place):
        tiles, place, lda = a, edge + parts.block * PANEL, (depth + LANES - 1) // LANES * LANES + LANES
        _copy_in(x, top * depth, depth, rows, depth, a, place, lda)
    iy, vectors = top * columns + first * LANES, last - first
    for v in range(0, vectors, TILE_VECTORS):
        end = min(v + TILE_VECTORS, vectors)
        if not whole or (first + end) * LANES > columns:
            product(tiles, place, lda, depth, rows, a, v, end, a, edge - v * LANES, PANEL)
            count = min((first + end) * LANES, columns) - (first + v) * LANES
            _copy_out(a, edge, PANEL, rows, count, y, iy + v * LANES, columns)
        elif parts.streams:
            _ask_panel(_stream, tiles, place, lda, depth, rows, a, v, y, iy, columns, x, place + AHEAD_FLOATS)
        elif v + TILE_VECTORS == vectors:
            _ask_panel(_ask, tiles, place, lda, depth, rows, a, v, y, iy, columns, x, (top + parts.block) * depth)
        else:
            product(tiles, place, lda, depth, rows, a, v, end, y, iy, columns)


@serial
def multiply_part(unit, parts, x, w, transposed, y, rows, depth, columns, a):
    """The part of y with this number.  a: the thread's scratch memory.  transposed: w is (columns, depth)."""
    chunk, tiles = unit % parts.chunks, (rows + TILE_ROWS - 1) // TILE_ROWS
    start, end = chunk * tiles // parts.chunks * TILE_ROWS, (chunk + 1) * tiles // parts.chunks * TILE_ROWS
    end = min(end, rows)
    first, last = share_of_panels(unit // parts.chunks, parts.shares, (columns + LANES - 1) // LANES)
    pack_share(w, depth, columns, transposed, first, last, a)
    for top in range(start, end, parts.block):
        _multiply_block(top, min(parts.block, end - top), x, depth, first, last, y, columns, parts, a)
