"""The vectors of `simd.py` in plain NumPy: what each operation means, for a debugger and for NUMBA_DISABLE_JIT=1."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from tinymnv1.ops.window import Array


def make_vectors(lanes: int) -> SimpleNamespace:
    """The operations of `simd.py` on arrays of `lanes` floats."""

    def vload(a: Array, i: int) -> Array:
        assert 0 <= i <= a.size - lanes, "a vector outside its array"
        return a[i : i + lanes].copy()

    def vload_tail(a: Array, i: int, n: int) -> Array:
        v = np.zeros(lanes, np.float32)
        n = min(max(n, 0), lanes)
        assert 0 <= i <= a.size - n, "a vector outside its array"
        v[:n] = a[i : i + n]
        return v

    def vstore(a: Array, i: int, v: Array) -> None:
        assert 0 <= i <= a.size - lanes, "a vector outside its array"
        a[i : i + lanes] = v

    def vstore_tail(a: Array, i: int, v: Array, n: int) -> None:
        n = min(max(n, 0), lanes)
        assert 0 <= i <= a.size - n, "a vector outside its array"
        a[i : i + n] = v[:n]

    def vzero() -> Array:
        return np.zeros(lanes, np.float32)

    def vsplat(number: float) -> Array:
        return np.full(lanes, number, np.float32)

    def vclip(v: Array, low: Array, high: Array) -> Array:
        return np.where(v < low, low, np.where(v > high, high, v))

    def vpass(v: Array, y: Array, low: Array, high: Array) -> Array:
        return np.where((y > low) & (y < high), v, np.float32(0))

    def product_tile(rows: int, vectors: int, transposed: bool) -> Any:
        n = vectors * lanes

        def tile(
            a: Array, ia: int, lda: int, depth: int, b: Array, ib: int, ldb: int, y: Array, iy: int, ldy: int
        ) -> None:
            for r in range(rows):
                row = iy + r * ldy
                total = y[row : row + n].copy() if transposed else np.zeros(n, np.float32)
                for k in range(depth):
                    number = a[ia + k * lda + r] if transposed else a[ia + r * lda + k]
                    total += number * b[ib + k * ldb : ib + k * ldb + n]
                y[row : row + n] = total

        return tile

    def clipped_tile(rows: int, vectors: int) -> Any:
        plain = product_tile(rows, vectors, transposed=False)

        def tile(
            a: Array, ia: int, lda: int, depth: int, b: Array, ib: int, ldb: int, y: Array, iy: int, ldy: int,
            bias: Array, ibias: int, low: float, high: float,
        ) -> None:  # fmt: skip
            plain(a, ia, lda, depth, b, ib, ldb, y, iy, ldy)
            n = vectors * lanes
            for row in range(iy, iy + rows * ldy, ldy):
                v = y[row : row + n] + bias[ibias : ibias + n]
                y[row : row + n] = vclip(v, np.full(n, low, np.float32), np.full(n, high, np.float32))

        return tile

    return SimpleNamespace(
        vload=vload,
        vload_tail=vload_tail,
        vstore=vstore,
        vstore_tail=vstore_tail,
        vzero=vzero,
        vsplat=vsplat,
        vadd=np.add,
        vsub=np.subtract,
        vmul=np.multiply,
        vfma=lambda x, y, z: x * y + z,
        vclip=vclip,
        vpass=vpass,
        product_tile=product_tile,
        clipped_tile=clipped_tile,
    )
