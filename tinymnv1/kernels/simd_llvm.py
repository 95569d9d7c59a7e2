"""The vectors of `simd.py` as LLVM instructions, written with Numba's `intrinsic`.

An intrinsic gives Numba two things: the types of a call, and a function that emits LLVM code for it. Pointers are made
with `gep` on the array's data, never with `A[i]`: Numba's handling of negative indices would cost a comparison for each
access, and makes LLVM spill the tile to the stack.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

FLOAT, BIT, INT32, INT64 = ir.FloatType(), ir.IntType(1), ir.IntType(32), ir.IntType(64)
INDEX = types.intp
ALIGN = 4  # bytes: rows of an image need not begin on a vector's boundary
TO_READ, SECOND_LEVEL, DATA = INT32(0), INT32(2), INT32(1)  # what LLVM's prefetch is told


class BFloat16(ir.Type):
    """LLVM's bfloat, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"


def holds_pairs(array_type: Any) -> bool:
    """Whether an array's elements are pairs of bfloat16."""
    return bool(array_type.dtype == types.uint32)


def has_bfloat16() -> bool:
    """Whether Numba compiles for a processor with AVX-512 BF16."""
    forced = config.CPU_NAME or config.CPU_FEATURES  # NUMBA_CPU_NAME: for another processor than this one
    return not forced and bool(binding.get_host_cpu_features().get("avx512bf16"))


class VectorType(types.Type):
    """Numba's type of a vector of float32 in a register."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(f"float32x{lanes}")


@register_model(VectorType)
class VectorModel(models.PrimitiveModel):
    """How Numba keeps a VectorType: as LLVM's own vector."""

    def __init__(self, manager: Any, numba_type: VectorType) -> None:
        super().__init__(manager, numba_type, ir.VectorType(FLOAT, numba_type.lanes))


class Emitter:
    """Emits LLVM instructions on vectors of one width through an IRBuilder `b`."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self.vector = ir.VectorType(FLOAT, lanes)
        self.integers = ir.VectorType(INT32, lanes)
        self.mask_type = ir.VectorType(BIT, lanes)
        self.zero = ir.Constant(self.vector, [0.0] * lanes)
        self.pairs = ir.VectorType(BFloat16(), 2 * lanes)
        self.has_bfloat16 = lanes == 16 and has_bfloat16()

    def pointer(self, context: Any, b: Any, array_type: Any, array: Any, index: Any) -> Any:
        """Address of element `index` of a flat array."""
        return b.gep(context.make_array(array_type)(context, b, array).data, [index])

    def between(self, b: Any, v: Any, low: Any, high: Any) -> Any:
        """v limited to [low, high]. Written so that a NaN fails both comparisons and stays a NaN."""
        v = b.select(b.fcmp_ordered("<", v, low), low, v)
        return b.select(b.fcmp_ordered(">", v, high), high, v)

    def _as_vector(self, b: Any, pointer: Any) -> Any:
        return b.bitcast(pointer, self.vector.as_pointer())

    def load(self, b: Any, pointer: Any) -> Any:
        return b.load(self._as_vector(b, pointer), align=ALIGN)

    def store(self, b: Any, value: Any, pointer: Any) -> None:
        b.store(value, self._as_vector(b, pointer), align=ALIGN)

    def first(self, b: Any, count: Any) -> Any:
        """The mask of the first `count` lanes (none if count <= 0)."""
        lane = ir.Constant(self.integers, list(range(self.lanes)))
        return b.icmp_signed("<", lane, self._broadcast(b, b.trunc(count, INT32), self.integers))

    def load_masked(self, b: Any, pointer: Any, mask: Any) -> Any:
        pointer = self._as_vector(b, pointer)
        kind = ir.FunctionType(self.vector, [pointer.type, INT32, self.mask_type, self.vector])
        function = cgutils.get_or_insert_function(b.module, kind, f"llvm.masked.load.v{self.lanes}f32.p0")
        return b.call(function, [pointer, INT32(ALIGN), mask, self.zero])

    def store_masked(self, b: Any, value: Any, pointer: Any, mask: Any) -> None:
        pointer = self._as_vector(b, pointer)
        kind = ir.FunctionType(ir.VoidType(), [self.vector, pointer.type, INT32, self.mask_type])
        function = cgutils.get_or_insert_function(b.module, kind, f"llvm.masked.store.v{self.lanes}f32.p0")
        b.call(function, [value, pointer, INT32(ALIGN), mask])

    def splat(self, b: Any, scalar: Any, integer: bool = False) -> Any:
        return self._broadcast(b, scalar, self.integers if integer else self.vector)

    def _broadcast(self, b: Any, scalar: Any, kind: Any) -> Any:
        undefined = ir.Constant(kind, ir.Undefined)
        all_first = ir.Constant(self.integers, [0] * self.lanes)
        return b.shuffle_vector(b.insert_element(undefined, scalar, INT32(0)), undefined, all_first)

    def fma(self, b: Any, x: Any, y: Any, z: Any) -> Any:
        """x * y + z, rounded once. Declared by hand: llvmlite's `declare_intrinsic` refuses vectors."""
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        return b.call(cgutils.get_or_insert_function(b.module, kind, f"llvm.fma.v{self.lanes}f32"), [x, y, z])

    def dot(self, b: Any, x: Any, y: Any, z: Any) -> Any:
        """In each lane, x and y being pairs of bfloat16: x[0] * y[0] + x[1] * y[1] + z.

        One instruction, where the processor has it. Elsewhere each pair is taken apart into two floats: a bfloat16 is
        the upper half of a float32, so a shift gives the first, and a mask the second.
        """
        if self.has_bfloat16:
            kind = ir.FunctionType(self.vector, [self.vector, self.pairs, self.pairs])
            function = cgutils.get_or_insert_function(b.module, kind, "llvm.x86.avx512bf16.dpbf16ps.512")
            return b.call(function, [z, b.bitcast(x, self.pairs), b.bitcast(y, self.pairs)])
        sixteen = ir.Constant(self.integers, [16] * self.lanes)
        upper = ir.Constant(self.integers, [0xFFFF0000] * self.lanes)
        x, y = b.bitcast(x, self.integers), b.bitcast(y, self.integers)
        for half in (lambda v: b.shl(v, sixteen), lambda v: b.and_(v, upper)):
            z = self.fma(b, b.bitcast(half(x), self.vector), b.bitcast(half(y), self.vector), z)
        return z

    def rounded(self, b: Any, v: Any) -> Any:
        """A float, or a vector of them, as bfloat16: 16-bit integers.

        One instruction, which takes numbers below the smallest normal one for zero; or by hand, which does not: half a
        step is added to the bits, a little less where the kept part is even, and the lower half dropped. LLVM's own
        way without the instruction is a call of a function that C libraries may lack.
        """
        lanes = self.lanes if v.type == self.vector else 0

        def whole(bits: int, value: int | None = None) -> Any:
            kind = ir.VectorType(ir.IntType(bits), lanes) if lanes else ir.IntType(bits)
            return kind if value is None else ir.Constant(kind, [value] * lanes if lanes else value)

        if self.has_bfloat16:
            half = ir.VectorType(BFloat16(), lanes) if lanes else BFloat16()
            return b.bitcast(b.fptrunc(v, half), whole(16))
        bits = b.bitcast(v, whole(32))
        upper = b.lshr(bits, whole(32, 16))
        nearest = b.add(b.add(bits, whole(32, 0x7FFF)), b.and_(upper, whole(32, 1)))
        still_nan = b.or_(upper, whole(32, 0x40))
        is_nan = b.fcmp_unordered("uno", v, v)
        return b.trunc(b.select(is_nan, still_nan, b.lshr(nearest, whole(32, 16))), whole(16))

    def pair(self, b: Any, x: Any, y: Any) -> Any:
        """Two floats, or two vectors of them, as bfloat16: x in the lower half of a 32-bit integer, y above."""
        vector = x.type == self.vector
        large = self.integers if vector else INT32
        x, y = (b.zext(self.rounded(b, v), large) for v in (x, y))
        return b.or_(x, b.shl(y, ir.Constant(large, [16] * self.lanes if vector else 16)))


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
            pointer = b.bitcast(emit.pointer(context, b, signature.args[0], *args), ir.IntType(8).as_pointer())
            kind = ir.FunctionType(ir.VoidType(), [pointer.type, INT32, INT32, INT32])
            function = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
            b.call(function, [pointer, TO_READ, SECOND_LEVEL, DATA])
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

    def product_tile(rows: int, vectors: int, transposed: bool) -> Any:
        return _product_tile(emit, rows, vectors, transposed)

    def clipped_tile(rows: int, vectors: int) -> Any:
        return _clipped_tile(emit, rows, vectors)

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
        vzero=vzero,
        vsplat=vsplat,
        vadd=vadd,
        vsub=vsub,
        vmul=vmul,
        vfma=vfma,
        vclip=vclip,
        vpass=vpass,
        product_tile=product_tile,
        clipped_tile=clipped_tile,
    )


def _product_tile(emit: Emitter, rows: int, vectors: int, transposed: bool) -> Any:
    """One register tile of a matrix product: `rows` rows by vectors * lanes columns of y.

    tile(a, ia, lda, depth, b, ib, ldb, y, iy, ldy), all arrays flat, ia, ib and iy the index of the tile's corner:

        transposed=False:  y[r, j]  = sum over k of  a[r, k] * b[k, j]      depth = number of k, at least 1
        transposed=True:   y[r, j] += sum over k of  a[k, r] * b[k, j]

    ld... is the distance between rows. If a and b hold pairs of bfloat16, each product above is of two pairs:
    first times first plus second times second. y is float32 in any case.

    The accumulators are phi nodes of the loop over k: LLVM keeps a value that lives from one round of a loop to the
    next in a register, as long as there are enough. One round loads `vectors` vectors of b, and for each row spreads
    one number of a over a vector and does `vectors` fused multiply-adds.
    """

    @intrinsic
    def tile(
        typing: Any, a: Any, ia: Any, lda: Any, depth: Any, b: Any, ib: Any, ldb: Any, y: Any, iy: Any, ldy: Any
    ) -> Any:
        signature = types.void(a, INDEX, INDEX, INDEX, b, INDEX, INDEX, y, INDEX, INDEX)
        return signature, _tile_code(emit, rows, vectors, transposed=transposed, clipped=False)

    return tile


def _clipped_tile(emit: Emitter, rows: int, vectors: int) -> Any:
    """As `_product_tile`, with a bias and a clip: y[r, j] = clip(bias[j] + sum of a[r, k] * b[k, j], low, high).

    tile(a, ia, lda, depth, b, ib, ldb, y, iy, ldy, bias, ibias, low, high)
    """

    @intrinsic
    def tile(
        typing: Any, a: Any, ia: Any, lda: Any, depth: Any, b: Any, ib: Any, ldb: Any, y: Any, iy: Any, ldy: Any,
        bias: Any, ibias: Any, low: Any, high: Any,
    ) -> Any:  # fmt: skip
        numbers = (bias, INDEX, types.float32, types.float32)
        signature = types.void(a, INDEX, INDEX, INDEX, b, INDEX, INDEX, y, INDEX, INDEX, *numbers)
        return signature, _tile_code(emit, rows, vectors, transposed=False, clipped=True)

    return tile


def _tile_code(
    emit: Emitter, rows: int, vectors: int, transposed: bool, clipped: bool
) -> Callable[[Any, Any, Any, Any], Any]:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, ia, lda, depth, b, ib, ldb, y, iy, ldy = args[:10]
        place = [INT64(emit.lanes * j) for j in range(vectors)]
        a_start = emit.pointer(context, builder, signature.args[0], a, ia)
        b_start = emit.pointer(context, builder, signature.args[4], b, ib)
        y_start = emit.pointer(context, builder, signature.args[7], y, iy)
        y_rows = [builder.gep(y_start, [builder.mul(ldy, INT64(r))]) for r in range(rows)]
        a_rows = [INT64(r) if transposed else builder.mul(lda, INT64(r)) for r in range(rows)]
        a_step = lda if transposed else INT64(1)
        pairs = holds_pairs(signature.args[0])
        multiply_add = emit.dot if pairs else emit.fma

        def load(pointer: Any, j: int) -> Any:
            return emit.load(builder, builder.gep(pointer, [place[j]]))

        if clipped:
            bias = emit.pointer(context, builder, signature.args[10], args[10], args[11])
            start = [[load(bias, j) for j in range(vectors)]] * rows
        elif transposed:
            start = [[load(y_rows[r], j) for j in range(vectors)] for r in range(rows)]
        else:
            start = [[emit.zero] * vectors] * rows

        entry = builder.block
        loop, done = builder.append_basic_block("k"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        k, a_k, b_k = builder.phi(INT64), builder.phi(a_start.type), builder.phi(b_start.type)
        for phi, value in ((k, INT64(0)), (a_k, a_start), (b_k, b_start)):
            phi.add_incoming(value, entry)
        total = [[builder.phi(emit.vector) for _ in range(vectors)] for _ in range(rows)]
        columns = [load(b_k, j) for j in range(vectors)]
        new = []
        for r in range(rows):
            number = emit.splat(builder, builder.load(builder.gep(a_k, [a_rows[r]])), pairs)
            new.append([multiply_add(builder, number, columns[j], total[r][j]) for j in range(vectors)])
        k_next = builder.add(k, INT64(1))
        k.add_incoming(k_next, loop)
        a_k.add_incoming(builder.gep(a_k, [a_step]), loop)
        b_k.add_incoming(builder.gep(b_k, [ldb]), loop)
        for r in range(rows):
            for j in range(vectors):
                total[r][j].add_incoming(start[r][j], entry)
                total[r][j].add_incoming(new[r][j], loop)
        builder.cbranch(builder.icmp_signed("<", k_next, depth), loop, done)

        builder.position_at_end(done)
        if clipped:
            low, high = emit.splat(builder, args[12]), emit.splat(builder, args[13])
            new = [[emit.between(builder, v, low, high) for v in row] for row in new]
        for r in range(rows):
            for j in range(vectors):
                emit.store(builder, new[r][j], builder.gep(y_rows[r], [place[j]]))
        return context.get_dummy_value()

    return code
