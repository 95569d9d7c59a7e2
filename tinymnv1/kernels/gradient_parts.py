"""The weights' gradient dw = x^T dy, part by part: how it is cut, and what a unit of work does with a block of rows.

x has `depth` numbers a row, dy has `columns`, and dw (depth, columns) is a sum over all rows. A unit of work makes one
part of dw, some rows by some columns of it. Block by block it copies what it needs of both factors into its scratch
memory, in the order in which the register tile reads them (Goto and van de Geijn 2008, "Anatomy of High-Performance
Matrix Multiplication"):

    x    tile by tile of GRADIENT_ROWS numbers:  a tile's rows one after the other
    dy   panel by panel of PANEL numbers:        likewise

Where they lie, the few numbers of a row that a tile multiplies are a cache line of their own, and the next row's are
pages away. Rows are copied from their first number to their last: memory is read in order.

x and dy are read once for each part in their direction, so there are as few parts as give every thread one. dw is read
and written once for each block of rows, so a block is long.
"""

from typing import NamedTuple

import numpy as np
from numba import get_num_threads

from tinymnv1.kernels.blocks import blocks_of, padded, whole_gradient_tiles
from tinymnv1.kernels.compile import LINE_FLOATS, serial
from tinymnv1.kernels.simd import (
    GRADIENT_ROWS,
    LANES,
    PANEL,
    TILE_ROWS,
    TILE_VECTORS,
    product_tile,
    vload,
    vload_tail,
    vstore,
)

GRADIENT_BLOCK = (1 << 12) // PANEL // TILE_ROWS * TILE_ROWS
"""Rows of a block, at most: so many of a panel are 16 KiB, half of a small first-level cache."""

_first = product_tile(GRADIENT_ROWS, TILE_VECTORS, transposed=True)
_first1 = product_tile(GRADIENT_ROWS, 1, transposed=True)
_next = product_tile(GRADIENT_ROWS, TILE_VECTORS, transposed=True, adds=True)
_next1 = product_tile(GRADIENT_ROWS, 1, transposed=True, adds=True)


class GradientParts(NamedTuple):
    """dw (tall, width), in memory whole tiles by whole vectors, is cut into parts of `rows` by `columns`.

    block: of so many rows of x and dy at a time.  tile, panel: tiles and panels lie so many floats apart in scratch
    memory: an odd number of cache lines, so that they do not share a few sets of the cache; and a tile ends with a
    vector to spare (`copy_tiles`).
    """

    tall: int
    width: int
    rows: int
    columns: int
    block: int
    tile: int
    panel: int


def whole_gradient(rows: int, depth: int, columns: int) -> GradientParts:
    """dw (depth, columns), a sum over so many rows, in one part."""
    block, _ = blocks_of(rows, GRADIENT_BLOCK)  # an even number, so that no pair of rows is torn
    tile, panel = (
        (-(-floats // LINE_FLOATS) // 2 * 2 + 1) * LINE_FLOATS
        for floats in (block * GRADIENT_ROWS + LANES, block * PANEL)
    )
    tall, width = whole_gradient_tiles(depth), padded(columns)
    return GradientParts(tall, width, tall, width, block, tile, panel)


def shared_out(whole: GradientParts) -> GradientParts:
    """The same in a part for each thread, as square as that allows; as far as there are tiles.

    The cut depends on the number of threads, but the result does not: each number is summed in the same order in any
    part. (A compiled function that asks for the number of threads is not cached, so this one is not compiled.)
    """
    tiles, panels, threads = whole.tall // GRADIENT_ROWS, -(-whole.width // PANEL), get_num_threads()
    cuts = [(down, threads // down) for down in range(1, threads + 1) if threads % down == 0]
    down, across = min(cuts, key=lambda cut: whole.tall / cut[0] + whole.width / cut[1])
    rows, columns = -(-tiles // min(down, tiles)), -(-panels // min(across, panels))
    return whole._replace(rows=rows * GRADIENT_ROWS, columns=columns * PANEL)


def part_floats(parts: GradientParts) -> int:
    """Floats of scratch memory that a part needs: the tiles, and the panels behind them."""
    return parts.rows // GRADIENT_ROWS * parts.tile + -(-parts.columns // PANEL) * parts.panel


@serial
def how_many(parts):
    """So many parts."""
    return (parts.tall + parts.rows - 1) // parts.rows * ((parts.width + parts.columns - 1) // parts.columns)


@serial
def part_of(p, parts):
    """Part p is dw[top:bottom, begin:end]; its panels begin at index dz of the scratch memory."""
    down = (parts.tall + parts.rows - 1) // parts.rows
    top, begin = p % down * parts.rows, p // down * parts.columns
    bottom, end = min(top + parts.rows, parts.tall), min(begin + parts.columns, parts.width)
    return top, bottom, begin, end, (bottom - top) // GRADIENT_ROWS * parts.tile


@serial
def copy_tiles(x, ix, ldx, rows, numbers, a, tile):
    """So many numbers of each row of x, rows ldx apart from x[ix] on, into a, tile by tile; zeros fill the last tile.

    Whole vectors are written, of which a tile's row may be only a part: the rest lies where the tile's next row comes
    later, or behind the last row, where there is room.
    """
    for r in range(rows):
        place = r * GRADIENT_ROWS
        for k in range(0, numbers, GRADIENT_ROWS):
            for j in range(0, GRADIENT_ROWS, LANES):
                i, n = ix + k + j, numbers - k - j
                vstore(a, place + j, vload(x, i) if n >= LANES else vload_tail(x, i, n))
            place += tile
        ix += ldx


@serial
def copy_panels(y, iy, ldy, rows, numbers, a, ia, panel):
    """So many numbers of each row of y, from y[iy] on, into a from a[ia] on, panel by panel; zeros up to a vector."""
    for r in range(rows):
        for c in range(0, numbers, LANES):
            place, n = ia + c // PANEL * panel + r * PANEL + c % PANEL, numbers - c
            vstore(a, place, vload(y, iy + c) if n >= LANES else vload_tail(y, iy + c, n))
        iy += ldy


@serial
def add_part(a, parts, depth, rows, dz, columns, dw, idw, ldw, first):
    """dw[k, c] += sum over so many rows of x[r, k] * dy[r, c], for k < depth and c < columns, from dw[idw] on.

    first: = instead, so that nobody needs to fill dw with zeros and read them.
    a: x as `copy_tiles` and, from a[dz] on, dy as `copy_panels` arranged them: floats; or pairs across the rows, and
    then `rows` is the number of pairs.  depth is rounded up to whole tiles; columns are whole vectors.
    """
    lda, ldb = np.int64(GRADIENT_ROWS), np.int64(PANEL)
    for c in range(0, columns, PANEL):
        place = dz + c // PANEL * parts.panel
        if c + PANEL <= columns:
            ia = 0
            for k in range(0, depth, GRADIENT_ROWS):
                if first:
                    _first(a, ia, lda, rows, a, place, ldb, dw, idw + k * ldw + c, ldw)
                else:
                    _next(a, ia, lda, rows, a, place, ldb, dw, idw + k * ldw + c, ldw)
                ia += parts.tile
        else:
            for v in range(0, columns - c, LANES):
                ia = 0
                for k in range(0, depth, GRADIENT_ROWS):
                    if first:
                        _first1(a, ia, lda, rows, a, place + v, ldb, dw, idw + k * ldw + c + v, ldw)
                    else:
                        _next1(a, ia, lda, rows, a, place + v, ldb, dw, idw + k * ldw + c + v, ldw)
                    ia += parts.tile
