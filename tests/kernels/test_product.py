"""Vectors and register tiles: every size of tail, and nothing read or written outside the arrays.

Also run with other vector widths (TINYMNV1_SIMD) and without the compiler (NUMBA_DISABLE_JIT), where the NumPy twins
assert that no vector lies outside its array.
"""

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numeric import relative_error

from tinymnv1.errors import ConfigError
from tinymnv1.kernels import blocks, compile, gradient_parts, product, product_parts, simd
from tinymnv1.kernels.gradient_parts import shared_out, whole_gradient
from tinymnv1.kernels.product import multiply, multiply_transposed

JIT = not numba.config.DISABLE_JIT
TOLERANCE = 1e-6


def numbers(shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@settings(max_examples=60 if JIT else 8, deadline=None)
@given(
    rows=st.integers(1, 90 if JIT else 20),
    depth=st.integers(1, 70 if JIT else 12),
    columns=st.integers(1, 100 if JIT else 20),
)
def test_products_of_any_size(rows, depth, columns):
    x, w, dy = numbers((rows, depth), 1), numbers((depth, columns), 2), numbers((rows, columns), 3)
    for a, b, ours in (
        (x, w, multiply(x, w)),
        (dy, w.T, multiply(dy, w.T)),
        (x.T, dy, multiply_transposed(x, dy)),
    ):
        a, b = a.astype(np.float64), b.astype(np.float64)
        terms = (np.abs(a) @ np.abs(b)).max()  # what was summed: float32 rounds relative to that
        assert relative_error(ours.astype(np.float64), a @ b, terms) <= TOLERANCE


@pytest.mark.skipif(simd.PANEL % compile.LINE_FLOATS != 0, reason="a tile's rows are no whole cache lines here")
@pytest.mark.parametrize("depth", [1, 27, 200])
def test_products_of_arrays_in_memory(depth, monkeypatch):
    """They take other tiles, which sum in the same order. Rows of a tile that is not whole, several blocks, panels."""
    streamed = []

    def watched(*args):
        parts = product_parts.product_parts(*args)
        streamed.append(parts.streams)
        return parts

    monkeypatch.setattr(product, "product_parts", watched)
    for rows in (1, 2 * simd.TILE_ROWS + 1) + (300,) * JIT:
        for columns in (simd.PANEL, 3 * simd.PANEL, simd.PANEL + simd.LANES):
            x, w = numbers((rows, depth), 1), numbers((depth, columns), 2)
            expected = multiply(x, w)
            with monkeypatch.context() as patch:
                patch.setattr(compile, "FAR_BYTES", 0)
                np.testing.assert_array_equal(multiply(x, w), expected)
            assert streamed[-2:] == [False, columns % simd.PANEL == 0]


@pytest.mark.skipif(not JIT, reason="takes minutes without the compiler")
@pytest.mark.parametrize(("rows", "depth", "columns"), [(5000, 8, 16), (1000, 256, 512), (33, 1024, 1000)])
def test_the_networks_shapes(rows, depth, columns):
    """Large enough that the work is cut into blocks, chunks and groups of panels."""
    test_products_of_any_size.hypothesis.inner_test(rows, depth, columns)


@pytest.mark.parametrize("depth", [3, 90])
def test_a_product_is_the_same_however_it_is_cut(depth, monkeypatch):
    """Into chunks of rows by shares of columns, of different sizes; a block may be a tile, or the chunk's rows."""
    rows, columns = 5 * simd.TILE_ROWS + 1, 3 * simd.PANEL + 1
    x, w = numbers((rows, depth), 1), numbers((depth, columns), 2)
    whole = multiply(x, w)
    for chunks, shares in ((1, 1), (2, 3), (6, 1), (5, 4)):
        monkeypatch.setattr(product_parts, "_cut", lambda *_, cut=(chunks, shares): cut)
        for most in (0, product_parts.BLOCK_FLOATS):
            monkeypatch.setattr(product_parts, "BLOCK_FLOATS", most)
            np.testing.assert_array_equal(multiply(x, w), whole)
            np.testing.assert_array_equal(multiply(x, np.asfortranarray(w)), whole)


@pytest.mark.parametrize("rows", [392, 5000, 100_352])
@pytest.mark.parametrize("columns", [10, 64, 1000])
@pytest.mark.parametrize("threads", [1, 2, 3, 8, 16])
def test_a_product_keeps_the_threads_busy(threads, columns, rows):
    """The busiest one has little more than its share of the tiles and panels."""
    chunks, shares = product_parts._cut(rows, columns, threads)
    tiles, panels = -(-rows // simd.TILE_ROWS), -(-columns // simd.PANEL)
    assert 1 <= chunks <= tiles
    assert 1 <= shares <= panels
    busiest = -(-chunks * shares // threads) * -(-tiles // chunks) * -(-panels // shares)
    assert busiest <= 1.25 * -(-tiles * panels // threads)


@pytest.mark.skipif(not JIT, reason="takes minutes without the compiler")
def test_a_gradient_of_many_weights_is_the_same_however_it_is_cut(monkeypatch):
    """Into parts of some tiles by some panels; the last ones are smaller, and the last panel is not whole."""
    x, dy = numbers((300, 190), 1), numbers((300, 201), 2)
    whole = multiply_transposed(x, dy)
    for tiles, panels in ((1, 1), (3, 2), (100, 5), (5, 100)):
        part = {"rows": tiles * simd.GRADIENT_ROWS, "columns": panels * simd.PANEL}
        monkeypatch.setattr(product, "shared_out", lambda whole, part=part: whole._replace(**part))
        np.testing.assert_array_equal(multiply_transposed(x, dy), whole)


@pytest.mark.parametrize("shape", [(256, 256), (1024, 1000), (40, 1000), (700, 50)])
@pytest.mark.parametrize("threads", [1, 2, 3, 8, 16])
def test_each_thread_has_a_part_of_the_gradient(threads, shape, monkeypatch):
    """As far as there are tiles, and never more: a second round would have threads that wait."""
    monkeypatch.setattr(gradient_parts, "get_num_threads", lambda: threads)
    parts = shared_out(whole_gradient(300, *shape))
    tiles, panels = parts.tall // simd.GRADIENT_ROWS, -(-parts.width // simd.PANEL)
    own = parts.rows // simd.GRADIENT_ROWS, parts.columns // simd.PANEL
    assert own == (parts.rows / simd.GRADIENT_ROWS, parts.columns / simd.PANEL)
    cut = -(-tiles // own[0]) * -(-panels // own[1])
    assert 0.85 * min(threads, tiles * panels) <= cut <= threads


def test_a_gradient_is_cut_into_squares(monkeypatch):
    """The squarer the parts, the less each reads of x and dy."""
    for threads, shape, cut in ((16, (960, 960), (4, 4)), (2, (960, 320), (2, 1)), (2, (320, 960), (1, 2))):
        monkeypatch.setattr(gradient_parts, "get_num_threads", lambda threads=threads: threads)
        parts = shared_out(whole_gradient(300, *shape))
        assert (round(parts.tall / parts.rows), round(parts.width / parts.columns)) == cut


@pytest.mark.parametrize(
    ("threads", "blocks_of_rows", "panels", "shares"),
    [(1, 5, 32, 1), (2, 4, 32, 1), (2, 5, 32, 2), (2, 64, 32, 1), (16, 5, 32, 16), (16, 1, 4, 4), (4, 1, 1, 1)],
)
def test_as_few_shares_of_the_columns_as_keep_the_threads_busy(threads, blocks_of_rows, panels, shares, monkeypatch):
    """Each share makes its block of rows anew; and of five blocks, one of two threads waits for the last."""
    monkeypatch.setattr(blocks, "get_num_threads", lambda: threads)
    assert blocks.shares_of_columns(blocks_of_rows, panels * simd.PANEL - 1) == shares


@pytest.mark.parametrize("far_bytes", [compile.FAR_BYTES, 0])
def test_products_write_nothing_beyond_their_arrays(far_bytes, monkeypatch):
    """Register tiles are whole, results need not be: what lies before and behind an array in memory must stay.

    And what memory held before must not be in a result.
    """
    handed_out = []

    def guarded(floats):
        memory = compile.aligned(floats + 256)
        memory[:] = 7
        handed_out.append(memory)
        return memory[128 : 128 + floats]

    monkeypatch.setattr(product, "aligned", guarded)
    monkeypatch.setattr(compile, "FAR_BYTES", far_bytes)
    tile, panel = simd.TILE_ROWS, simd.PANEL
    for rows, columns in ((1, 1), (tile + 1, panel + 3), (2 * tile, 2 * panel - 1), (tile + 1, 2 * panel)):
        x, w, dy = numbers((rows, 5), 1), numbers((5, columns), 2), numbers((rows, columns), 3)
        np.testing.assert_allclose(multiply(x, w), x @ w, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(multiply(dy, w.T), dy @ w.T, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(multiply_transposed(x, dy), x.T @ dy, rtol=1e-4, atol=1e-4)
    assert len(handed_out) >= 6
    for memory in handed_out:
        assert (memory[:128] == 7).all()
        assert (memory[-128:] == 7).all()


def test_vectors_are_what_they_say():
    lanes = simd.LANES

    @numba.njit
    def run(x, y, n):
        a, b = simd.vload(x, 1), simd.vload_tail(x, 2, n)
        simd.vstore(y, 0, simd.vfma(a, b, simd.vadd(a, simd.vmul(b, b))))
        simd.vstore_tail(y, lanes, a, n)
        simd.vstore(y, 2 * lanes, simd.vzero())

    x = numbers(2 * lanes + 2, 0)
    for n in (0, 1, lanes - 1, lanes):
        y = np.full(3 * lanes, 9, np.float32)
        run(x, y, n)
        a, b = x[1 : 1 + lanes], np.where(np.arange(lanes) < n, x[2 : 2 + lanes], 0)
        np.testing.assert_allclose(y[:lanes], a * b + (a + b * b), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(y[lanes : 2 * lanes], np.where(np.arange(lanes) < n, a, 9))
        assert not y[2 * lanes :].any()


def test_a_block_is_transposed():
    """And nothing around it is touched."""
    lanes = simd.LANES

    @numba.njit
    def run(x, y):
        simd.transpose_block(x, 1, lanes + 3, y, 2, lanes + 1)

    x, y = numbers((lanes + 1) * (lanes + 3), 0), np.full(lanes * (lanes + 1) + 2, 7, np.float32)
    run(x, y)
    rows = y[2:].reshape(lanes, lanes + 1)
    np.testing.assert_array_equal(rows[:, :lanes], x[1:][: lanes * (lanes + 3)].reshape(lanes, -1)[:, :lanes].T)
    assert (rows[:, lanes] == 7).all()
    assert (y[:2] == 7).all()


def as_bfloat16(x):
    """The bits, rounded by PyTorch."""
    return torch.tensor(x).bfloat16().view(torch.uint16).numpy()


def test_pairs_of_bfloat16_are_rounded_as_pytorch_rounds():
    """All that writes pairs: ties, a signed zero, infinities, a number that rounds up to one. A NaN stays a NaN."""
    lanes = simd.LANES

    @numba.njit
    def run(x, y, a):
        v, w = simd.vload(x, 0), simd.vload(y, 0)
        simd.vstore_along(a, 1, 0, v)
        simd.vstore_along(a, 1, lanes, w)
        simd.vstore_rows(a, 1 + lanes, 0, v, w)
        for j in range(lanes):
            simd.store_pair(a, 1 + 2 * lanes + j, x[j], y[j])
        return simd.numbers_in(a), simd.numbers_in(x)

    special = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 3.4e38, np.inf, -np.inf, -0.0, np.nan], np.float32)
    for first in range(0, len(special), 4):
        x, y = numbers(lanes, first), numbers(lanes, first + 1)
        x[:4] = y[-4:] = special[first : first + 4]
        a = np.full(3 * lanes + 2, 7, np.uint32)
        assert run(x, y, a) == (2, 1)
        assert a[0] == a[-1] == 7
        along, rows, pairs = a[1:-1].reshape(3, lanes)
        known = ~np.isnan(np.concatenate([x, y]))
        neighbours = np.ascontiguousarray(along).view(np.uint16)
        for halves in (neighbours, *(np.concatenate([both & 0xFFFF, both >> 16]) for both in (rows, pairs))):
            np.testing.assert_array_equal(halves[known], as_bfloat16(np.concatenate([x, y]))[known])
            assert np.isnan((halves[~known].astype(np.uint32) << 16).view(np.float32)).all()


def test_the_same_stores_into_floats():
    lanes = simd.LANES

    @numba.njit
    def run(x, a):
        v, w = simd.vload(x, 0), simd.vload(x, lanes)
        simd.vstore_along(a, 1, 2, v)
        simd.vstore_rows(a, lanes + 3, lanes + 1, v, w)
        simd.store_pair(a, 0, x[0], x[1])

    x, a = numbers(2 * lanes, 0), np.full(3 * lanes + 5, 7, np.float32)
    run(x, a)
    expected = np.full(3 * lanes + 5, 7, np.float32)
    expected[0], expected[3 : 3 + lanes] = x[0], x[:lanes]
    expected[lanes + 3 : 2 * lanes + 3], expected[2 * lanes + 4 : 3 * lanes + 4] = x[:lanes], x[lanes:]
    np.testing.assert_array_equal(a, expected)


@pytest.mark.skipif(not JIT or "TINYMNV1_SIMD" in os.environ, reason="this is the run that the test below starts")
@pytest.mark.parametrize("name", ["avx2", "neon"])
def test_other_vector_widths(name):
    """The kernels' tests again, with vectors that this machine would not choose."""
    if simd.host_simd() == name or (simd.host_simd() == "neon" and name == "avx2"):
        pytest.skip(f"{name} is this machine's own, or too wide for it")
    environment = os.environ | {"TINYMNV1_SIMD": name}
    command = [sys.executable, "-m", "pytest", str(Path(__file__).parent)]
    root = Path(__file__).parents[2]
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stdout[-3000:]


def test_an_unknown_vector_set_is_refused():
    result = subprocess.run(
        [sys.executable, "-c", "import tinymnv1.kernels"],
        env=os.environ | {"TINYMNV1_SIMD": "mmx"},
        capture_output=True,
        text=True,
    )
    assert ConfigError.__name__ in result.stderr
    assert "avx512, avx2, neon" in result.stderr
