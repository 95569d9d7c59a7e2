"""LLVM instructions on the vectors of `simd.py`: what its intrinsics (`simd_llvm.py`, `simd_tile.py`) are made of.

Pointers are made with `gep` on the array's data, never with `A[i]`: Numba's handling of negative indices would cost a
comparison for each access, and makes LLVM spill the tile to the stack.
"""

from typing import Any

from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.extending import models, register_model

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

    def store_past_caches(self, b: Any, value: Any, pointer: Any) -> None:
        """A non-temporal store: the line is not read from memory first. pointer: on a vector's boundary."""
        store = b.store(value, self._as_vector(b, pointer), align=4 * self.lanes)
        store.set_metadata("nontemporal", b.module.add_metadata([INT32(1)]))

    def prefetch(self, b: Any, pointer: Any) -> None:
        """Ask for the line at `pointer`, which may lie anywhere, to be brought into the second-level cache."""
        pointer = b.bitcast(pointer, ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, INT32, INT32, INT32])
        function = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
        b.call(function, [pointer, TO_READ, SECOND_LEVEL, DATA])

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

    def transposed(self, b: Any, rows: list[Any]) -> list[Any]:
        """The columns of `lanes` vectors, as vectors.

        Blocks of d by d numbers change places across the diagonal, for d = 1, 2, 4, ...: each pair of rows d apart
        swaps what has bit d of its column set in the first with what has it clear in the second.
        """
        d = 1
        while d < self.lanes:
            upper = [self.lanes + c - d if c & d else c for c in range(self.lanes)]
            lower = [self.lanes + c if c & d else c + d for c in range(self.lanes)]
            for r in range(self.lanes):
                if not r & d:
                    v, w = rows[r], rows[r + d]
                    for place, order in ((r, upper), (r + d, lower)):
                        rows[place] = b.shuffle_vector(v, w, ir.Constant(self.integers, order))
            d *= 2
        return rows

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
