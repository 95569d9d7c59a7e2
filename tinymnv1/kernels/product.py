"""Matrix products of plain arrays: what the layers' pointwise convolutions, stem and classifier are made of.

    multiply(x, w)              x (M, K) @ w (K, N)         forward; and, with w.T, the gradient of x
    multiply_transposed(x, dy)  x (M, K).T @ dy (M, N)      the gradient of w

They run on register tiles, which know no ends of rows. How the first one is cut, and what becomes of the ends, is in
`product_parts.py`; for the second one it is in `gradient_parts.py`.

Where partial sums are added in the end, the shapes alone say into how many parts the work is cut, and no two threads
add into the same number: so results do not depend on the number of threads.
"""

import numpy as np
from numba import get_thread_id, prange

from tinymnv1.kernels.blocks import sum_chunks
from tinymnv1.kernels.compile import CHUNKS, aligned, far, parallel, scratch_memory, serial
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
from tinymnv1.kernels.product_parts import multiply_part, product_floats, product_parts
from tinymnv1.ops.window import Array

SMALL_WEIGHTS = 1 << 15
"""Up to so many weights, `multiply_transposed` gives every chunk of rows its own sum; above, there is enough to share
out among the rows and columns of the result instead."""


@parallel
def _multiply(x, w, transposed, y, rows, depth, columns, parts, scratch):
    """y = x w. A unit of work is a part of y."""
    for unit in prange(parts.chunks * parts.shares):
        multiply_part(np.int64(unit), parts, x, w, transposed, y, rows, depth, columns, scratch[get_thread_id()])


@serial
def _add_unit(unit, chunks, parts, x, dy, dw, rows, depth, columns, a):
    chunk, width = unit % chunks, parts.width
    top, bottom, begin, end, dz = part_of(unit // chunks, parts)
    idw, first, last = (chunk * parts.tall + top) * width + begin, chunk * rows // chunks, (chunk + 1) * rows // chunks
    for start in range(first, last, parts.block):
        count, numbers = min(parts.block, last - start), min(bottom, depth) - top
        copy_tiles(x, start * depth + top, depth, count, numbers, a, parts.tile)
        copy_panels(dy, start * columns + begin, columns, count, min(end, columns) - begin, a, dz, parts.panel)
        add_part(a, parts, numbers, count, dz, end - begin, dw, idw, width, start == first)


@parallel
def _add_products(chunks, parts, x, dy, dw, rows, depth, columns, scratch):
    """dw[chunk] = x[rows].T @ dy[rows] for each chunk of the rows. A unit of work is a part of one chunk's dw."""
    for unit in prange(chunks * how_many(parts)):
        _add_unit(np.int64(unit), chunks, parts, x, dy, dw, rows, depth, columns, scratch[get_thread_id()])


def multiply(x: Array, w: Array) -> Array:
    """x @ w. x: (M, K) float32, C-contiguous.  w: (K, N) float32, of any layout.  Returns (M, N)."""
    (rows, depth), columns = x.shape, w.shape[1]
    transposed = w.T.flags.c_contiguous and not w.flags.c_contiguous
    flat = np.ascontiguousarray(w.T if transposed else w).reshape(-1)
    y = aligned(rows * columns)
    parts = product_parts(rows, depth, columns, bool(far(x, y)))
    scratch = scratch_memory(product_floats(parts, depth))
    _multiply(x.reshape(-1), flat, transposed, y, rows, depth, columns, parts, scratch)
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
