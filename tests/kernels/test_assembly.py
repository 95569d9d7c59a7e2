"""The machine code of the innermost loops: fused multiply-adds on whole vectors, and nothing kept on the stack.

If LLVM spilled the accumulators of a register tile, every result would still be right, at a third of the speed.
"""

import re

import numba
import numpy as np
import pytest

from tinymnv1.kernels import simd
from tinymnv1.kernels.blocks import Window
from tinymnv1.kernels.fused_depthwise import convolve_band
from tinymnv1.kernels.fused_pointwise import _mask_panel
from tinymnv1.kernels.simd import (
    GRADIENT_ROWS,
    LANES,
    PANEL,
    SIMD,
    TILE_ROWS,
    TILE_VECTORS,
    asking_tile,
    clipped_tile,
    product_tile,
    store_pair,
    vload,
    vstore_along,
    vstore_rows,
)
from tinymnv1.kernels.simd_emitter import has_bfloat16
from tinymnv1.kernels.strips import depthwise_row

REGISTER = {"avx512": "zmm", "avx2": "ymm"}.get(SIMD)
FLOATS = numba.types.Array(numba.float32, 1, "C", aligned=True)
PAIRS = numba.types.Array(numba.uint32, 1, "C", aligned=True)
INDEX = numba.int64

pytestmark = [
    pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="there is no machine code without the compiler"),
    pytest.mark.skipif(REGISTER is None, reason="reads x86 assembly with AVX2 or AVX-512 only"),
    pytest.mark.skipif(simd.host_simd() == "neon", reason="this machine has no AVX2"),
]

LABEL = re.compile(r"^([.\w$\"<>-]+):")
JUMP = re.compile(r"^\s+j\w+\s+([.\w$\"<>-]+)")


def innermost_loops(assembly):
    """The lines of each innermost loop: from a label to a jump back to it, with no other loop between them."""
    lines = assembly.splitlines()
    places = {m[1]: i for i, line in enumerate(lines) if (m := LABEL.match(line))}
    spans = []
    for i, line in enumerate(lines):
        m = JUMP.match(line)
        if m and places.get(m[1], i) < i:
            spans.append((places[m[1]], i))
    inner = [a for a in spans if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in spans)]
    return [lines[first : last + 1] for first, last in inner]


def loops_with_fma(function, *types):
    """The innermost loops of the compiled function in which vectors are multiplied and added."""
    function.compile(types)
    (assembly,) = function.inspect_asm().values()
    loops = [loop for loop in innermost_loops(assembly) if any(fma(line) for line in loop)]
    assert loops, f"no loop has a fused multiply-add on {REGISTER} registers"
    return loops


def fma(line):
    return re.match(rf"\s+(vfn?m(add|sub)\d*ps|vdpbf16ps)\s.*%{REGISTER}", line)


def on_the_stack(line):
    """Whether the line has to do with the stack. %rbp is a register like others: there are no frame pointers."""
    return "(%rsp" in line


def check_tile(loops, multiplications):
    """Each loop over k (LLVM may have unrolled it) has all fused multiply-adds, and leaves the stack alone."""
    for loop in loops:
        assert sum(bool(fma(line)) for line in loop) >= multiplications
        assert not [line for line in loop if on_the_stack(line)]


@pytest.mark.parametrize("vectors", [TILE_VECTORS, 1])
@pytest.mark.parametrize(("transposed", "adds"), [(False, False), (True, False), (True, True)])
def test_a_register_tile_stays_in_registers(vectors, transposed, adds):
    rows = GRADIENT_ROWS if transposed else TILE_ROWS
    tile = product_tile(rows, vectors, transposed, adds)

    @numba.njit
    def run(a, depth, b, y, ld):
        tile(a, 0, ld, depth, b, 0, PANEL, y, 0, ld)

    check_tile(loops_with_fma(run, FLOATS, INDEX, FLOATS, FLOATS, INDEX), rows * vectors)


@pytest.mark.skipif(SIMD != "avx512" or not has_bfloat16(), reason="this processor does not multiply bfloat16")
@pytest.mark.parametrize("transposed", [False, True])
def test_a_tile_of_pairs_multiplies_them_in_one_instruction(transposed):
    rows = GRADIENT_ROWS if transposed else TILE_ROWS
    tile = product_tile(rows, TILE_VECTORS, transposed=transposed)

    @numba.njit
    def run(a, depth, b, y, ld):
        tile(a, 0, ld, depth, b, 0, PANEL, y, 0, ld)

    loops = loops_with_fma(run, PAIRS, INDEX, PAIRS, FLOATS, INDEX)
    check_tile(loops, rows * TILE_VECTORS)
    assert all("vdpbf16ps" in line for loop in loops for line in loop if fma(line))


def test_rounding_to_bfloat16_calls_no_function():
    """LLVM's own conversion, without AVX-512 BF16, is a call of __truncsfbf2, which many C libraries do not have."""

    @numba.njit
    def run(x, a):
        v = vload(x, 0)
        vstore_along(a, 0, 0, v)
        vstore_rows(a, LANES, 0, v, v)
        store_pair(a, 2 * LANES, x[0], x[1])

    run.compile((FLOATS, PAIRS))
    (assembly,) = run.inspect_asm().values()
    assert "truncsfbf2" not in assembly


@pytest.mark.parametrize("vectors", [TILE_VECTORS, 1])
def test_a_clipped_tile_stays_in_registers(vectors):
    tile = clipped_tile(TILE_ROWS, vectors)

    @numba.njit
    def run(a, depth, b, y, ld, bias, low, high):
        tile(a, 0, ld, depth, b, 0, PANEL, y, 0, ld, bias, 0, low, high)

    types = (FLOATS, INDEX, FLOATS, FLOATS, INDEX, FLOATS, numba.float32, numba.float32)
    check_tile(loops_with_fma(run, *types), TILE_ROWS * vectors)


@pytest.mark.parametrize("streams", [False, True])
def test_an_asking_tile_asks_ahead_and_a_streaming_one_writes_past_the_caches(streams):
    """Nothing else tells: the results are the same without."""
    tile = asking_tile(TILE_ROWS, TILE_VECTORS, streams=streams)

    @numba.njit
    def run(a, depth, b, y, ld):
        tile(a, 0, depth, depth, b, 0, PANEL, y, 0, ld, a, 64)

    loops = loops_with_fma(run, FLOATS, INDEX, FLOATS, FLOATS, INDEX)
    check_tile(loops, TILE_ROWS * TILE_VECTORS)
    assert all(any("prefetch" in line for line in loop) for loop in loops)
    (assembly,) = run.inspect_asm().values()
    assert len(re.findall(rf"vmovntps\s+%{REGISTER}", assembly)) == streams * TILE_ROWS * TILE_VECTORS


def depthwise_loops():
    """The loops over a row's pixels; there are several, for strides and lengths that LLVM treats apart."""

    @numba.njit(error_model="numpy")
    def run(a, plane, columns, w, y, rows, out_w, channels, stride):
        convolve_band(a, plane, columns, w, y, 0, rows, out_w, channels, stride)

    return loops_with_fma(run, FLOATS, INDEX, INDEX, FLOATS, FLOATS, INDEX, INDEX, INDEX, INDEX)


def test_a_depthwise_filter_stays_in_registers():
    """Nine weights and three sums. Addresses may come from the stack, vectors may not."""
    for loop in depthwise_loops():
        assert sum(bool(fma(line)) for line in loop) >= 6
        assert not [line for line in loop if on_the_stack(line) and REGISTER in line]


def test_a_depthwise_sum_is_three_chains():
    """In one chain of nine, each fused multiply-add waits four cycles for the one before it."""
    for loop in depthwise_loops():
        sums = {line.rsplit("%", 1)[1] for line in loop if fma(line)}
        assert len(sums) >= 3


def masked_store(line):
    return re.match(r"\s+vmaskmovps\s+%\w+, %\w+, |\s+vmov[au]ps\s+%\w+, [^%]*\(.*\)\s+{%k\d}", line)


@pytest.mark.parametrize("type_of_a", [FLOATS, PAIRS])
def test_what_the_clip_let_pass_is_stored_whole(type_of_a):
    """LLVM makes a load, a mask and a store to the same place one masked store, at three times the cost."""

    @numba.njit
    def run(da, z, width, rows, bn, low, high, partial, a):
        _mask_panel(da, z, 0, width, rows, 0, width // LANES, bn, low, high, partial, 0, a, 0, width)

    types = (FLOATS, FLOATS, INDEX, INDEX, FLOATS, numba.float32, numba.float32, FLOATS, type_of_a)
    for loop in loops_with_fma(run, *types):
        assert not [line for line in loop if masked_store(line)]


def strip_loops(ask):
    """The loops over channels of all kinds of strips: of four outputs, of two, and of one."""
    window = numba.typeof(Window(1, 8, 8, 8, 8, 1, 1, 1))

    @numba.njit
    def run(window, x, w, y, channels, ask):
        depthwise_row(window, x, channels, w, None, None, None, y, 0, channels, 0, 4, 0, channels, None, ask)

    return loops_with_fma(run, window, FLOATS, FLOATS, FLOATS, INDEX, numba.typeof(ask))


@pytest.mark.parametrize("ask", [True, None])
def test_a_strip_stays_in_registers(ask):
    loops = strip_loops(ask)
    assert {sum(bool(fma(line)) for line in loop) for loop in loops} == {36, 18, 9}
    for loop in loops:
        assert not [line for line in loop if on_the_stack(line) and REGISTER in line]


@pytest.mark.parametrize("ask", [True, None])
def test_a_strip_asks_ahead_between_its_multiplications(ask):
    """Nothing else tells: the results are the same without, and half as fast."""
    asking = [loop for loop in strip_loops(ask) if any("prefetch" in line for line in loop)]
    multiplications = {36, 18} if ask else set()  # of four outputs, and of two
    assert {sum(bool(fma(line)) for line in loop) for loop in asking} == multiplications


def test_the_reader_of_assembly_sees_a_spill():
    """More accumulators than there are registers: the loop must be found, and found to use the stack."""
    tile = product_tile(4 * TILE_ROWS, TILE_VECTORS, transposed=False)

    @numba.njit
    def run(a, depth, b, y, ld):
        tile(a, 0, ld, depth, b, 0, PANEL, y, 0, ld)

    (loop,) = loops_with_fma(run, FLOATS, INDEX, FLOATS, FLOATS, INDEX)
    assert [line for line in loop if on_the_stack(line)]
    a, b, y = (np.ones(n, np.float32) for n in (4 * TILE_ROWS * 64, PANEL * LANES, 4 * TILE_ROWS * 64))
    run(a, 5, b, y, 64)
    assert y[0] == 5
