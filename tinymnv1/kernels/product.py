"""Matrix products on register tiles: what pointwise convolutions, the stem and the classifier are made of.

    multiply(x, w)              x (M, K) @ w (K, N)         forward; and, with w.T, the gradient of x
    multiply_transposed(x, dy)  x (M, K).T @ dy (M, N)      the gradient of w

y is cut into panels of PANEL columns and a panel into tiles of TILE_ROWS rows; a tile stays in registers while the loop
over the depth runs (`simd.product_tile`). For `multiply` the weights are first packed: panel by panel, so that the
columns of a tile lie side by side in memory, the last panel filled up with zeros.

Blocks are sized to the caches. A block of rows of x takes about BLOCK_BYTES and is used for all panels while it is in
the second-level cache. How the work is cut depends on the shapes alone, and no two threads add into the same number, so
results do not depend on the number of threads.
"""

import numpy as np
from numba import prange

from tinymnv1.kernels.compile import CHUNKS, parallel, serial
from tinymnv1.kernels.simd import PANEL, TILE_ROWS, TILE_VECTORS, product_tile
from tinymnv1.ops.window import Array

BLOCK_BYTES = 1 << 18
SMALL_WEIGHTS = 1 << 14
"""Up to so many weights, `multiply_transposed` gives every chunk of rows its own sum; above, there is enough to share
out among the rows of the result instead."""

# One tile for each count of rows that is needed: whole tiles, then what is left in fours, twos and ones.
_tile = product_tile(TILE_ROWS, TILE_VECTORS, transposed=False)
_tile4 = product_tile(4, TILE_VECTORS, transposed=False)
_tile2 = product_tile(2, TILE_VECTORS, transposed=False)
_tile1 = product_tile(1, TILE_VECTORS, transposed=False)
_transposed = product_tile(TILE_ROWS, TILE_VECTORS, transposed=True)
_transposed4 = product_tile(4, TILE_VECTORS, transposed=True)
_transposed2 = product_tile(2, TILE_VECTORS, transposed=True)
_transposed1 = product_tile(1, TILE_VECTORS, transposed=True)


@serial
def _rows(x, ix, depth, count, packed, ip, y, iy, ldy, n):
    """`count` rows of one panel: y[r, :n] = x[r, :] @ panel. n is None if the panel is whole."""
    r = 0
    while count - r >= TILE_ROWS:
        _tile(x, ix + r * depth, depth, depth, packed, ip, PANEL, y, iy + r * ldy, ldy, n)
        r += TILE_ROWS
    while count - r >= 4:
        _tile4(x, ix + r * depth, depth, depth, packed, ip, PANEL, y, iy + r * ldy, ldy, n)
        r += 4
    while count - r >= 2:
        _tile2(x, ix + r * depth, depth, depth, packed, ip, PANEL, y, iy + r * ldy, ldy, n)
        r += 2
    while count - r >= 1:
        _tile1(x, ix + r * depth, depth, depth, packed, ip, PANEL, y, iy + r * ldy, ldy, n)
        r += 1


@serial
def _rows_transposed(x, ix, ldx, count, depth, dy, idy, dw, iw, ldw, n):
    """`count` rows of one panel of dw: dw[r, :n] += sum over m < depth of x[m, r] * dy[m, :n]. n as in `_rows`."""
    r = 0
    while count - r >= TILE_ROWS:
        _transposed(x, ix + r, ldx, depth, dy, idy, ldw, dw, iw + r * ldw, ldw, n)
        r += TILE_ROWS
    while count - r >= 4:
        _transposed4(x, ix + r, ldx, depth, dy, idy, ldw, dw, iw + r * ldw, ldw, n)
        r += 4
    while count - r >= 2:
        _transposed2(x, ix + r, ldx, depth, dy, idy, ldw, dw, iw + r * ldw, ldw, n)
        r += 2
    while count - r >= 1:
        _transposed1(x, ix + r, ldx, depth, dy, idy, ldw, dw, iw + r * ldw, ldw, n)
        r += 1


@parallel
def _pack(w, packed):
    """packed[p, k, j] = w[k, p * PANEL + j], zero beyond the last column."""
    depth, columns = w.shape
    for p in prange((columns + PANEL - 1) // PANEL):
        n = min(PANEL, columns - p * PANEL)
        for k in range(depth):
            place = (p * depth + k) * PANEL
            for j in range(n):
                packed[place + j] = w[k, p * PANEL + j]
            for j in range(n, PANEL):
                packed[place + j] = 0


@parallel
def _multiply(x, packed, y, rows, depth, columns, block, groups):
    """A unit of work is a block of rows, and one of `groups` equal shares of the panels."""
    panels, blocks = (columns + PANEL - 1) // PANEL, (rows + block - 1) // block
    for unit in prange(blocks * groups):
        first = unit // groups * block
        count = min(block, rows - first)
        group = unit % groups
        for p in range(group * panels // groups, (group + 1) * panels // groups):
            n = columns - p * PANEL
            ix, ip, iy = first * depth, p * depth * PANEL, first * columns + p * PANEL
            if n >= PANEL:
                _rows(x, ix, depth, count, packed, ip, y, iy, columns, None)
            else:
                _rows(x, ix, depth, count, packed, ip, y, iy, columns, n)


@parallel
def _multiply_transposed(x, dy, dw, rows, depth, columns, chunks, block):
    """dw[chunk] += x[rows].T @ dy[rows] for each chunk of the rows. A unit of work is TILE_ROWS rows of a dw[chunk]."""
    groups = (depth + TILE_ROWS - 1) // TILE_ROWS
    for unit in prange(chunks * groups):
        chunk, r = unit // groups, unit % groups * TILE_ROWS
        count = min(TILE_ROWS, depth - r)
        last = (chunk + 1) * rows // chunks
        for first in range(chunk * rows // chunks, last, block):
            part = min(block, last - first)
            for column in range(0, columns, PANEL):
                n = columns - column
                ix, iy, iw = first * depth + r, first * columns + column, (chunk * depth + r) * columns + column
                if n >= PANEL:
                    _rows_transposed(x, ix, depth, count, part, dy, iy, dw, iw, columns, None)
                else:
                    _rows_transposed(x, ix, depth, count, part, dy, iy, dw, iw, columns, n)


def multiply(x: Array, w: Array) -> Array:
    """x @ w. x: (M, K) float32, C-contiguous.  w: (K, N) float32, of any layout.  Returns (M, N)."""
    (rows, depth), columns = x.shape, w.shape[1]
    panels = -(-columns // PANEL)
    packed = np.empty(panels * depth * PANEL, np.float32)
    _pack(w, packed)
    y = np.empty((rows, columns), np.float32)
    tiles = max(BLOCK_BYTES // (4 * depth * TILE_ROWS), 1)
    block = min(tiles, -(-rows // (CHUNKS * TILE_ROWS))) * TILE_ROWS
    blocks = -(-rows // block)
    groups = min(panels, max(CHUNKS // blocks, 1))  # few rows: share the columns out as well
    _multiply(x.reshape(-1), packed, y.reshape(-1), rows, depth, columns, block, groups)
    return y


def multiply_transposed(x: Array, dy: Array) -> Array:
    """x.T @ dy. x: (M, K), dy: (M, N), float32, C-contiguous.  Returns (K, N)."""
    (rows, depth), columns = x.shape, dy.shape[1]
    chunks = min(CHUNKS, -(-rows // 256)) if depth * columns <= SMALL_WEIGHTS else 1
    block = max(BLOCK_BYTES // (4 * (columns + TILE_ROWS)), 1)
    dw = np.zeros((chunks, depth, columns), np.float32)
    _multiply_transposed(x.reshape(-1), dy.reshape(-1), dw.reshape(-1), rows, depth, columns, chunks, block)
    return dw[0] if chunks == 1 else dw.sum(axis=0)
