"""The vectors of `simd.py` in plain NumPy: what each operation means, for a debugger and for NUMBA_DISABLE_JIT=1."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from tinymnv1.ops.window import Array


def rounded_to_bfloat16(v: Any) -> Array:
    """float32 numbers as bfloat16: the upper half of the nearest float32 whose lower half is zero, as uint32."""
    bits = np.asarray(v, np.float32).view(np.uint32)
    nearest = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16  # a tie goes to the even one
    return np.where(np.isnan(v), bits >> 16 | 0x40, nearest)


def halves(a: Array) -> tuple[Array, ...]:
    """What a product multiplies one after the other: the array itself, or of pairs the first ones and the second."""
    if a.dtype != np.uint32:
        return (a,)
    return (a << 16).view(np.float32), (a & 0xFFFF0000).view(np.float32)


def make_vectors(lanes: int) -> SimpleNamespace:
    """The operations of `simd.py` on arrays of `lanes` floats."""

    def vload(a: Array, i: int) -> Array:
        assert 0 <= i <= a.size - lanes, "a vector outside its array"
        return a[i : i + lanes].copy()

    def vload_tail(a: Array, i: int, n: int) -> Array:
        v = np.zeros(lanes, a.dtype)
        n = min(max(n, 0), lanes)
        assert n == 0 or 0 <= i <= a.size - n, "a vector outside its array"
        v[:n] = a[i : i + n]
        return v

    def vstore(a: Array, i: int, v: Array) -> None:
        assert 0 <= i <= a.size - lanes, "a vector outside its array"
        a[i : i + lanes] = v

    def vstore_tail(a: Array, i: int, v: Array, n: int) -> None:
        n = min(max(n, 0), lanes)
        assert 0 <= i <= a.size - n, "a vector outside its array"
        a[i : i + n] = v[:n]

    def prefetch(a: Array, i: int) -> None:
        """Nothing to be seen."""

    def numbers_in(a: Array) -> int:
        return 2 if a.dtype == np.uint32 else 1

    def pair(x: Any, y: Any) -> Array:
        return (rounded_to_bfloat16(x) | rounded_to_bfloat16(y) << 16).astype(np.uint32)

    def vstore_along(a: Array, i: int, c: int, v: Array) -> None:
        if numbers_in(a) == 1:
            vstore(a, i + c, v)
        else:
            first = i + c // 2
            assert 0 <= first <= a.size - lanes // 2, "a vector outside its array"
            a[first : first + lanes // 2] = pair(v[::2], v[1::2])

    def vstore_rows(a: Array, i: int, ld: int, v: Array, w: Array) -> None:
        if numbers_in(a) == 1:
            vstore(a, i, v)
            vstore(a, i + ld, w)
        else:
            vstore(a, i, pair(v, w))

    def store_pair(a: Array, i: int, x: float, y: float) -> None:
        a[i] = x if numbers_in(a) == 1 else pair(np.float32(x), np.float32(y))

    def transpose_block(x: Array, i: int, ldx: int, y: Array, iy: int, ldy: int) -> None:
        columns, step = np.stack([vload(x, i + j * ldx) for j in range(lanes)]).T, numbers_in(y)
        for k in range(0, lanes, step):
            vstore(y, iy + k // step * ldy, columns[k] if step == 1 else pair(columns[k], columns[k + 1]))

    def vzero() -> Array:
        return np.zeros(lanes, np.float32)

    def vsplat(number: float) -> Array:
        return np.full(lanes, number, np.float32)

    def vclip(v: Array, low: Array, high: Array) -> Array:
        return np.where(v < low, low, np.where(v > high, high, v))

    def vpass(v: Array, y: Array, low: Array, high: Array) -> Array:
        return np.where((y > low) & (y < high), v, np.float32(0))

    def product_tile(rows: int, vectors: int, transposed: bool, adds: bool = False) -> Any:
        n = vectors * lanes

        def tile(
            a: Array, ia: int, lda: int, depth: int, b: Array, ib: int, ldb: int, y: Array, iy: int, ldy: int
        ) -> None:
            for r in range(rows):
                row = iy + r * ldy
                total = y[row : row + n].copy() if adds else np.zeros(n, np.float32)
                for k in range(depth):
                    i = ia + k * lda + r if transposed else ia + r * lda + k
                    for number, row_of_b in zip(halves(a[i : i + 1]), halves(b[ib + k * ldb :][:n]), strict=True):
                        with np.errstate(over="ignore", invalid="ignore"):  # a row to spare may hold anything
                            total += number * row_of_b
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

    def asking_tile(rows: int, vectors: int, streams: bool) -> Any:
        plain = product_tile(rows, vectors, transposed=False)

        def tile(
            a: Array, ia: int, lda: int, depth: int, b: Array, ib: int, ldb: int, y: Array, iy: int, ldy: int,
            x: Array, ahead: int,
        ) -> None:  # fmt: skip
            if streams:
                assert y[iy:].ctypes.data % (4 * lanes) == ldy % lanes == 0, "a row that is not on a vector's boundary"
            plain(a, ia, lda, depth, b, ib, ldb, y, iy, ldy)

        return tile

    return SimpleNamespace(
        vload=vload,
        vload_tail=vload_tail,
        vstore=vstore,
        vstore_tail=vstore_tail,
        prefetch=prefetch,
        numbers_in=numbers_in,
        vstore_along=vstore_along,
        vstore_rows=vstore_rows,
        store_pair=store_pair,
        transpose_block=transpose_block,
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
        asking_tile=asking_tile,
    )
