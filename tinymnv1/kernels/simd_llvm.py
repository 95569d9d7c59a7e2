"""The vectors of `simd.py` as LLVM instructions, written with Numba's `intrinsic`.

An intrinsic gives Numba two things: the types of a call, and a function that emits LLVM code for it.
"""

from functools import partial
from types import SimpleNamespace
from typing import Any

from numba import types
from numba.extending import intrinsic

from tinymnv1.kernels.simd_emitter import ALIGN, INDEX, INT64, Emitter, VectorType, holds_pairs
from tinymnv1.kernels.simd_tile import asking_tile, clipped_tile, product_tile


def make_vectors(lanes: int) -> SimpleNamespace:
    """The operations of `simd.py` on vectors of `lanes` floats."""
    emit = Emitter(lanes)
    vector = VectorType(lanes)

    @intrinsic
    def vload(typing: Any, a: Any, i: Any) -> Any:
        def code(context: Any, b: Any, signature: Any, args: Any) -> Any:
            return emit.load(b, emit.pointer(context, b, signature.args[0], *args))

        return vector(a, INDEX), code

    @intrinsic
    def vload_tail(typing: Any, a: Any, i: Any, n: Any) -> Any:
        def code(context: Any, b: Any, signature: Any, args: Any) -> Any:
            pointer = emit.pointer(context, b, signature.args[0], *args[:2])
            return emit.load_masked(b, pointer, emit.first(b, args[2]))

        return vector(a, INDEX, INDEX), code

    @intrinsic
    def vstore(typing: Any, a: Any, i: Any, v: Any) -> Any:
        def code(context: Any, b: Any, signature: Any, args: Any) -> Any:
            emit.store(b, args[2], emit.pointer(context, b, signature.args[0], *args[:2]))
            return context.get_dummy_value()

        return types.void(a, INDEX, vector), code

    @intrinsic
    def vstore_tail(typing: Any, a: Any, i: Any, v: Any, n: Any) -> Any:
        def code(context: Any, b: Any, signature: Any, args: Any) -> Any:
            pointer = emit.pointer(context, b, signature.args[0], *args[:2])
            emit.store_masked(b, args[2], pointer, emit.first(b, args[3]))
            return context.get_dummy_value()

        return types.void(a, INDEX, vector, INDEX), code

    @intrinsic
    def prefetch(typing: Any, a: Any, i: Any) -> Any:
        def code(context: Any, b: Any, signature: Any, args: Any) -> Any:
            emit.prefetch(b, emit.pointer(context, b, signature.args[0], *args))
            return context.get_dummy_value()

        return types.void(a, INDEX), code

    @intrinsic
    def numbers_in(typing: Any, a: Any) -> Any:
        return types.int64(a), lambda context, b, signature, args: INT64(2 if holds_pairs(signature.args[0]) else 1)

    @intrinsic
    def vstore_along(typing: Any, a: Any, i: Any, c: Any, v: Any) -> Any:
        def code(context: Any, b: Any, signature: Any, args: Any) -> Any:
            array, i, c, v = args
            if holds_pairs(signature.args[0]):
                pointer = emit.pointer(context, b, signature.args[0], array, b.add(i, b.ashr(c, INT64(1))))
                halves = emit.rounded(b, v)
                b.store(halves, b.bitcast(pointer, halves.type.as_pointer()), align=ALIGN)
            else:
                emit.store(b, v, emit.pointer(context, b, signature.args[0], array, b.add(i, c)))
            return context.get_dummy_value()

        return types.void(a, INDEX, INDEX, vector), code

    @intrinsic
    def vstore_rows(typing: Any, a: Any, i: Any, ld: Any, v: Any, w: Any) -> Any:
        def code(context: Any, b: Any, signature: Any, args: Any) -> Any:
            array, i, ld, v, w = args
            first = emit.pointer(context, b, signature.args[0], array, i)
            if holds_pairs(signature.args[0]):
                b.store(emit.pair(b, v, w), b.bitcast(first, emit.integers.as_pointer()), align=ALIGN)
            else:
                emit.store(b, v, first)
                emit.store(b, w, b.gep(first, [ld]))
            return context.get_dummy_value()

        return types.void(a, INDEX, INDEX, vector, vector), code

    @intrinsic
    def store_pair(typing: Any, a: Any, i: Any, x: Any, y: Any) -> Any:
        def code(context: Any, b: Any, signature: Any, args: Any) -> Any:
            array, i, x, y = args
            value = emit.pair(b, x, y) if holds_pairs(signature.args[0]) else x
            b.store(value, emit.pointer(context, b, signature.args[0], array, i))
            return context.get_dummy_value()

        return types.void(a, INDEX, types.float32, types.float32), code

    @intrinsic
    def transpose_block(typing: Any, x: Any, i: Any, ldx: Any, y: Any, iy: Any, ldy: Any) -> Any:
        def code(context: Any, b: Any, signature: Any, args: Any) -> Any:
            x, i, ldx, y, iy, ldy = args
            start = emit.pointer(context, b, signature.args[0], x, i)
            place = emit.pointer(context, b, signature.args[3], y, iy)
            rows = emit.transposed(b, [emit.load(b, b.gep(start, [b.mul(ldx, INT64(j))])) for j in range(lanes)])
            if holds_pairs(signature.args[3]):
                rows = [emit.pair(b, v, w) for v, w in zip(rows[::2], rows[1::2], strict=True)]
            for k, row in enumerate(rows):
                pointer = b.gep(place, [b.mul(ldy, INT64(k))])
                b.store(row, b.bitcast(pointer, row.type.as_pointer()), align=ALIGN)
            return context.get_dummy_value()

        return types.void(x, INDEX, INDEX, y, INDEX, INDEX), code

    @intrinsic
    def vzero(typing: Any) -> Any:
        return vector(), lambda context, b, signature, args: emit.zero

    @intrinsic
    def vsplat(typing: Any, number: Any) -> Any:
        return vector(types.float32), lambda context, b, signature, args: emit.splat(b, args[0])

    @intrinsic
    def vadd(typing: Any, x: Any, y: Any) -> Any:
        return vector(vector, vector), lambda context, b, signature, args: b.fadd(*args)

    @intrinsic
    def vsub(typing: Any, x: Any, y: Any) -> Any:
        return vector(vector, vector), lambda context, b, signature, args: b.fsub(*args)

    @intrinsic
    def vmul(typing: Any, x: Any, y: Any) -> Any:
        return vector(vector, vector), lambda context, b, signature, args: b.fmul(*args)

    @intrinsic
    def vfma(typing: Any, x: Any, y: Any, z: Any) -> Any:
        return vector(vector, vector, vector), lambda context, b, signature, args: emit.fma(b, *args)

    @intrinsic
    def vclip(typing: Any, v: Any, low: Any, high: Any) -> Any:
        return vector(vector, vector, vector), lambda context, b, signature, args: emit.between(b, *args)

    @intrinsic
    def vpass(typing: Any, v: Any, y: Any, low: Any, high: Any) -> Any:
        def code(context: Any, b: Any, signature: Any, args: Any) -> Any:
            value, y, low, high = args
            inside = b.and_(b.fcmp_ordered(">", y, low), b.fcmp_ordered("<", y, high))
            return b.select(inside, value, emit.zero)

        return vector(vector, vector, vector, vector), code

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
        vadd=vadd,
        vsub=vsub,
        vmul=vmul,
        vfma=vfma,
        vclip=vclip,
        vpass=vpass,
        product_tile=partial(product_tile, emit),
        clipped_tile=partial(clipped_tile, emit),
        asking_tile=partial(asking_tile, emit),
    )
