"""Explicit SIMD: vectors of float32 that stay in registers, and the register-tiled product built from them.

LLVM's own vectoriser does not keep a tile of a matrix product in registers; plain loops reach a quarter of the
machine's speed. Here each vector operation is written out: what looks like a function call is one machine instruction.

    v = vload(x, i)                       LANES floats from the flat array x, from index i on
    v = vload_tail(x, i, n)               only the first n of them; the rest are zero and are not touched
    vstore(x, i, v)  vstore_tail(x, i, v, n)
    prefetch(x, i)                        asks for the cache line of x[i] ahead of time; i may lie outside x
    vzero()  vsplat(number)  vadd(a, b)  vsub(a, b)  vmul(a, b)  vfma(a, b, c) = a * b + c
    vclip(v, low, high)                   v limited to [low, high]; a NaN stays a NaN
    vpass(v, y, low, high)                v where low < y < high, else 0: how a gradient passes a clip
    product_tile(rows, vectors, transposed)   makes a register tile of a matrix product (a compiled function);
    clipped_tile(rows, vectors)               one with a bias and a clip;
    asking_tile(rows, vectors, streams)       one that asks for what a later tile will read: see `simd_tile.py`
    transpose_block(x, i, ldx, y, iy, ldy)    LANES rows of LANES floats from x[i] on, transposed, to y[iy] and on

An array of uint32 holds pairs of bfloat16, a float32 without the lower half of its bits; a product of pairs takes as
many instructions as one of floats, for twice the numbers. The first of a pair is in the lower half of the uint32. What
the kernels that know both do with either:

    numbers_in(a)                         2 for pairs, 1 for floats
    vstore_along(a, i, c, v)              v into a row that begins at index i, from its number c on (c is even)
    vstore_rows(a, i, ld, v, w)           v into one row, w into the next: at i and i + ld; as pairs (v, w), both at i
    store_pair(a, i, x, y)                the pair (x, y); or x alone
    transpose_block(...)                  pairs, if y holds them, of two numbers that were neighbours in a row of x

Arrays are flat and float32 otherwise, and indices are not checked: an index outside the array reads or writes foreign
memory.

The width follows the host: 16 lanes and 32 registers with AVX-512, 8 and 16 with AVX2, 4 and 32 with NEON.
`TINYMNV1_SIMD=avx512|avx2|neon` forces one. With NUMBA_DISABLE_JIT=1 the same names are plain NumPy, for a debugger.
"""

import os

from llvmlite import binding
from numba import config

from tinymnv1.errors import ConfigError

# name -> lanes of a vector; rows and vectors of the product's register tile, which needs rows * vectors + vectors + 1
# registers; rows of the tile of the weights' gradient. The product's rows are an even number, so that no pair of rows
# is torn between two blocks. The gradient's rows are channels, whose number is mostly a power of two: tiles of 14
# rows would compute 75 % more with 8 or 16 of them, 31 % with 32.
TILES = {"avx512": (16, 14, 2, 8), "avx2": (8, 6, 2, 6), "neon": (4, 8, 3, 8)}


def host_simd() -> str:
    """What this machine's processor has; "neon", four lanes, is the narrowest and runs anywhere."""
    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return "avx512"
    return "avx2" if features.get("avx2") and features.get("fma") else "neon"


SIMD = os.environ.get("TINYMNV1_SIMD") or host_simd()
if SIMD not in TILES:
    raise ConfigError(f"TINYMNV1_SIMD must be one of {', '.join(TILES)}, got {SIMD!r}")
LANES, TILE_ROWS, TILE_VECTORS, GRADIENT_ROWS = TILES[SIMD]
PANEL = LANES * TILE_VECTORS
"""Columns of the product that a register tile covers."""

if config.DISABLE_JIT:
    from tinymnv1.kernels.simd_numpy import make_vectors
else:
    from tinymnv1.kernels.simd_llvm import make_vectors


def multiplies_bfloat16() -> bool:
    """Whether a product of pairs takes one instruction here, and not several: with AVX-512 BF16."""
    if config.DISABLE_JIT or LANES < 16:
        return False
    from tinymnv1.kernels.simd_emitter import has_bfloat16

    return has_bfloat16()


_vectors = make_vectors(LANES)
vload, vload_tail, vstore, vstore_tail = _vectors.vload, _vectors.vload_tail, _vectors.vstore, _vectors.vstore_tail
prefetch, numbers_in, store_pair = _vectors.prefetch, _vectors.numbers_in, _vectors.store_pair
vstore_along, vstore_rows = _vectors.vstore_along, _vectors.vstore_rows
vzero, vsplat, vadd, vsub = _vectors.vzero, _vectors.vsplat, _vectors.vadd, _vectors.vsub
transpose_block = _vectors.transpose_block
vmul, vfma, vclip, vpass = _vectors.vmul, _vectors.vfma, _vectors.vclip, _vectors.vpass
product_tile, clipped_tile, asking_tile = _vectors.product_tile, _vectors.clipped_tile, _vectors.asking_tile
