"""The register tile of a matrix product as LLVM instructions."""

from collections.abc import Callable
from typing import Any

from numba import types
from numba.extending import intrinsic

from tinymnv1.kernels.simd_emitter import INDEX, INT64, Emitter, holds_pairs


def product_tile(emit: Emitter, rows: int, vectors: int, transposed: bool, adds: bool = False) -> Any:
    """One register tile of a matrix product: `rows` rows by vectors * lanes columns of y.

    tile(a, ia, lda, depth, b, ib, ldb, y, iy, ldy), all arrays flat, ia, ib and iy the index of the tile's corner:

        transposed=False:  y[r, j] = sum over k of  a[r, k] * b[k, j]      depth = number of k, at least 1
        transposed=True:   y[r, j] = sum over k of  a[k, r] * b[k, j]

    adds: it is added to what y is. ld... is the distance between rows. If a and b hold pairs of bfloat16, each product
    above is of two pairs: first times first plus second times second. y is float32 in any case.

    The accumulators are phi nodes of the loop over k: LLVM keeps a value that lives from one round of a loop to the
    next in a register, as long as there are enough. One round loads `vectors` vectors of b, and for each row spreads
    one number of a over a vector and does `vectors` fused multiply-adds.
    """

    @intrinsic
    def tile(
        typing: Any, a: Any, ia: Any, lda: Any, depth: Any, b: Any, ib: Any, ldb: Any, y: Any, iy: Any, ldy: Any
    ) -> Any:
        signature = types.void(a, INDEX, INDEX, INDEX, b, INDEX, INDEX, y, INDEX, INDEX)
        return signature, _tile_code(emit, rows, vectors, transposed, adds)

    return tile


def clipped_tile(emit: Emitter, rows: int, vectors: int) -> Any:
    """As `product_tile`, with a bias and a clip: y[r, j] = clip(bias[j] + sum of a[r, k] * b[k, j], low, high).

    tile(a, ia, lda, depth, b, ib, ldb, y, iy, ldy, bias, ibias, low, high)
    """

    @intrinsic
    def tile(
        typing: Any, a: Any, ia: Any, lda: Any, depth: Any, b: Any, ib: Any, ldb: Any, y: Any, iy: Any, ldy: Any,
        bias: Any, ibias: Any, low: Any, high: Any,
    ) -> Any:  # fmt: skip
        numbers = (bias, INDEX, types.float32, types.float32)
        signature = types.void(a, INDEX, INDEX, INDEX, b, INDEX, INDEX, y, INDEX, INDEX, *numbers)
        return signature, _tile_code(emit, rows, vectors, clipped=True)

    return tile


def asking_tile(emit: Emitter, rows: int, vectors: int, streams: bool) -> Any:
    """As `product_tile`, not transposed; and it asks for what a later tile will read.

    tile(a, ia, lda, depth, b, ib, ldb, y, iy, ldy, x, ahead)

    With each k it asks for the cache line of x[ahead + k * rows]: in all, for `rows` rows of `depth` numbers that lie
    side by side. A request between the multiplications costs next to nothing; all of them before the loop would keep
    the tile's own loads waiting.

    streams: y is written past the caches, so it is not read from memory first. It begins on a vector's boundary, and
    the tile covers whole cache lines of it. Another thread sees these numbers after the next barrier, such as the end
    of a parallel loop.
    """

    @intrinsic
    def tile(
        typing: Any, a: Any, ia: Any, lda: Any, depth: Any, b: Any, ib: Any, ldb: Any, y: Any, iy: Any, ldy: Any,
        x: Any, ahead: Any,
    ) -> Any:  # fmt: skip
        signature = types.void(a, INDEX, INDEX, INDEX, b, INDEX, INDEX, y, INDEX, INDEX, x, INDEX)
        return signature, _tile_code(emit, rows, vectors, asks=True, streams=streams)

    return tile


def _tile_code(
    emit: Emitter,
    rows: int,
    vectors: int,
    transposed: bool = False,
    adds: bool = False,
    clipped: bool = False,
    asks: bool = False,
    streams: bool = False,
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
        elif adds:
            start = [[load(y_rows[r], j) for j in range(vectors)] for r in range(rows)]
        else:
            start = [[emit.zero] * vectors] * rows

        if asks:
            x_ahead = emit.pointer(context, builder, signature.args[10], args[10], args[11])

        entry = builder.block
        loop, done = builder.append_basic_block("k"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        k, a_k, b_k = builder.phi(INT64), builder.phi(a_start.type), builder.phi(b_start.type)
        for phi, value in ((k, INT64(0)), (a_k, a_start), (b_k, b_start)):
            phi.add_incoming(value, entry)
        total = [[builder.phi(emit.vector) for _ in range(vectors)] for _ in range(rows)]
        if asks:
            emit.prefetch(builder, builder.gep(x_ahead, [builder.mul(k, INT64(rows))]))
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
        store = emit.store_past_caches if streams else emit.store
        for r in range(rows):
            for j in range(vectors):
                store(builder, new[r][j], builder.gep(y_rows[r], [place[j]]))
        return context.get_dummy_value()

    return code
