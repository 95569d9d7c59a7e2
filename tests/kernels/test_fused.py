"""The fused kernels against the ops they are made of, in float64: any rows, channels, strides, bands and shares.

Each stage's input is arbitrary z with arbitrary coefficients of its batch norm; y = scale z + shift lies on both sides
of ReLU6's kinks and not near them. What lies beyond the last row is NaN: a kernel that used it would show.
"""

from types import SimpleNamespace

import numba
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numeric import off_kinks, relative_error

from tinymnv1 import kernels, ops
from tinymnv1.engine import training
from tinymnv1.engine.shares import window_of
from tinymnv1.engine.training import DepthwiseStage, PointwiseStage, Stage, StemStage
from tinymnv1.kernels.blocks import (
    ALONG_DY,
    ALONG_Z,
    COEFFICIENTS,
    CONSTANT,
    INV_STD,
    MEAN,
    SCALE,
    SHIFT,
    block_moments,
    no_norm,
    pack,
    padded,
    spread,
)
from tinymnv1.kernels.compile import aligned, scratch_memory
from tinymnv1.kernels.fused_pool import pool_backward, pool_forward
from tinymnv1.kernels.gather import gather_rows, line_floats
from tinymnv1.kernels.moments import finish_backward, finish_forward
from tinymnv1.kernels.simd import LANES, PANEL, TILE_ROWS, TILE_VECTORS
from tinymnv1.layers import BatchNorm, Chain, Conv2d
from tinymnv1.parameters import Parameter

JIT = not numba.config.DISABLE_JIT
TOLERANCE = 2e-6  # float32 sums of a few hundred numbers, beside the size of the terms
EXAMPLES = 40 if JIT else 4
CHANNELS = st.integers(1, 40) if JIT else st.integers(1, 9)
SIDE = st.integers(1, 9) if JIT else st.integers(1, 4)
IMAGES = st.integers(2, 4)
SEED = st.integers(0, 2**16)
KINKS = (0.0, 6.0)


def nan(size):
    """Memory as an engine gives it out, but full of NaN."""
    array = aligned(size)
    array[:] = np.nan
    return array


def lay(x, array=None):
    """x (..., C) as rows of padded(C) floats, zeros beyond the last channel; NaN beyond the last row."""
    width, channels = padded(x.shape[-1]), x.shape[-1]
    rows = x.reshape(-1, channels)
    array = nan((len(rows) + TILE_ROWS) * width) if array is None else array
    grid = array[: len(rows) * width].reshape(-1, width)
    grid[:, :channels], grid[:, channels:] = rows, 0
    return array


def read(array, shape):
    """The reverse of `lay`, in float64."""
    width = padded(shape[-1])
    rows = int(np.prod(shape[:-1]))
    return array[: rows * width].reshape(rows, width)[:, : shape[-1]].reshape(shape).astype(np.float64)


def batch_norm(channels, rng):
    return BatchNorm(kernels, channels), rng.uniform(0.5, 2, (COEFFICIENTS, channels)) * rng.choice([-1, 1], channels)


def stage_before(n, h, w, channels, rng):
    """A stage whose z is given, and its y = scale z + shift in float64."""
    norm, numbers = batch_norm(channels, rng)
    stage = Stage(nan, norm, Parameter(np.empty(0, np.float32)), n, h, w)
    coefficients = numbers.astype(np.float32)
    stage.bn.reshape(COEFFICIENTS, -1)[:, :channels] = coefficients
    exact = coefficients.astype(np.float64)
    z = ((off_kinks(rng, (n, h, w, channels), KINKS) - exact[SHIFT]) / exact[SCALE]).astype(np.float32)
    lay(z, stage.z)
    return stage, z.astype(np.float64), z * exact[SCALE] + exact[SHIFT]


def check(ours, judge, terms):
    assert relative_error(np.asarray(ours, np.float64), judge, np.abs(terms).max()) <= TOLERANCE


def check_stage(stage, z_in, y_in, forward, backward, rng, rounded=np.asarray):
    """One stage forward and backward. forward(x, w) and backward(dy, cache) are the op; all but batch norm's own sums.

    The batch norm behind the stage: its statistics are checked, then random numbers take the place of its gradient's.
    rounded: what becomes of the op's factors. They are whole numbers of 1/32 then: which way one goes must not depend
    on the last digit.
    """
    before, weight = stage.before, stage.weight
    scratch = scratch_memory(stage.scratch)
    scratch[:] = np.nan
    a, w = rounded(np.clip(y_in, 0, 6)), rounded(weight.data.astype(np.float64))
    z, cache = forward(a, w)
    size, size_cache = forward(a, np.abs(w))
    stage.forward(scratch)
    check(read(stage.z, z.shape), z, size)
    numbers = stage.bn.reshape(COEFFICIENTS, -1)[:, : stage.channels].astype(np.float64)
    mean = z.mean(axis=(0, 1, 2))
    check(numbers[MEAN], mean, size)
    inv_std = 1 / np.sqrt(((z - mean) ** 2).mean(axis=(0, 1, 2)) + 1e-5)
    spread_of_z = np.abs(size).max() * inv_std.max()  # how many digits are lost where a channel hardly varies
    assert relative_error(numbers[INV_STD], inv_std) <= TOLERANCE * max(spread_of_z, 1)

    exact = rounded is not np.asarray
    draw = rng.choice([-2.0, -1.0, 1.0, 2.0], numbers.shape) if exact else rng.uniform(-1, 1, numbers.shape)
    numbers = draw.astype(np.float32)
    stage.bn.reshape(COEFFICIENTS, -1)[:, : stage.channels] = numbers
    z_out = read(stage.z, z.shape)
    dy = (rng.integers(-99, 99, z.shape) if exact else rng.normal(size=z.shape)).astype(np.float32)
    parts = [numbers[ALONG_DY] * dy.astype(np.float64), numbers[ALONG_Z] * z_out, numbers[CONSTANT] + 0 * z_out]
    dz, dz_size = rounded(sum(parts)), sum(np.abs(part) for part in parts)
    dy_in = nan(before.z.size + TILE_ROWS * before.padded_channels)
    stage.backward(lay(dy), dy_in, scratch)
    (da, dw), (da_size, dw_size) = backward(dz, cache), backward(dz_size, size_cache)
    inside = (y_in > 0) & (y_in < 6)
    check(read(dy_in, da.shape), da * inside, da_size)
    check(weight.grad, dw, dw_size)
    bn_in = before.bn.reshape(COEFFICIENTS, -1)[:, : before.channels].astype(np.float64)
    away = z_in - bn_in[MEAN]
    beta, gamma = before.norm.params["beta"].grad, before.norm.params["gamma"].grad
    axes = (0, 1, 2)
    check(beta, (da * inside).sum(axes), np.abs(da_size).sum(axes))
    terms = np.abs(da_size * away * bn_in[INV_STD]).sum(axes)
    check(gamma, (da * inside * away).sum(axes) * bn_in[INV_STD], terms)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    n=IMAGES, h=SIDE, w=SIDE, c=CHANNELS, stride=st.integers(1, 3), padding=st.sampled_from(["symmetric", "tf"]),
    floats=st.sampled_from([1, 1000, 1 << 16]), seed=SEED,
)  # fmt: skip
@example(n=2, h=1, w=1, c=1, stride=1, padding="symmetric", floats=1 << 16, seed=0)
@example(n=40 if JIT else 2, h=2, w=2, c=3, stride=2, padding="tf", floats=1 << 16, seed=0)  # several images a unit
def test_depthwise_stage(n, h, w, c, stride, padding, floats, seed):
    """floats: of scratch memory, from bands of one row to whole images."""
    rng = np.random.default_rng(seed)
    before, z, y = stage_before(n, h, w, c, rng)
    weight = Parameter(rng.normal(size=(3, 3, c)).astype(np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "BAND_FLOATS", floats)
        stage = DepthwiseStage(nan, before, BatchNorm(kernels, c), weight, stride, padding, 0.0, 6.0)
    check_stage(
        stage, z, y, lambda x, w: ops.depthwise_forward(x, w, stride, padding), ops.depthwise_backward, rng
    )  # fmt: skip


@settings(max_examples=EXAMPLES, deadline=None)
@given(n=IMAGES, h=SIDE, w=SIDE, cin=CHANNELS, cout=CHANNELS, few=st.booleans(), seed=SEED)
@example(n=2, h=9, w=7, cin=300 if JIT else 40, cout=290 if JIT else 50, few=False, seed=1)  # columns in shares
@example(n=9 if JIT else 2, h=9, w=9, cin=30, cout=20, few=False, seed=3)  # several blocks of the weights' gradient
@example(n=20 if JIT else 2, h=9, w=9, cin=5, cout=7, few=True, seed=1)  # more rows than there are chunks
def test_pointwise_stage(n, h, w, cin, cout, few, seed):
    """few: a sum of the weights' gradient for each chunk of rows; else its columns are shared out."""
    rng = np.random.default_rng(seed)
    before, z, y = stage_before(n, h, w, cin, rng)
    weight = Parameter(rng.normal(size=(cin, cout)).astype(np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "FEW_WEIGHTS", 1 << 30 if few else 0)
        stage = PointwiseStage(nan, before, BatchNorm(kernels, cout), weight, 0.0, 6.0, pairs=False)
    assert stage.product.few == few
    check_stage(stage, z, y, ops.pointwise_forward, ops.pointwise_backward, rng)


def bfloat16(x):
    """Rounded by PyTorch; which is exact for the numbers here if they fit into float32."""
    assert (x.astype(np.float32) == x).all()
    return torch.tensor(x, dtype=torch.float32).bfloat16().double().numpy()


@settings(max_examples=EXAMPLES, deadline=None)
@given(n=IMAGES, h=SIDE, w=SIDE, cin=CHANNELS, cout=CHANNELS, few=st.booleans(), seed=SEED)
@example(n=2, h=9, w=7, cin=300 if JIT else 40, cout=290 if JIT else 50, few=False, seed=1)  # columns in shares
@example(n=9 if JIT else 2, h=9, w=9, cin=30, cout=20, few=False, seed=3)  # several blocks of the weights' gradient
@example(n=21 if JIT else 3, h=9, w=9, cin=5, cout=7, few=True, seed=1)  # chunks, and an odd number of rows
@example(n=3, h=1, w=1, cin=1, cout=1, few=True, seed=2)
def test_pointwise_stage_of_pairs(n, h, w, cin, cout, few, seed):
    """bfloat16: as above, with both factors of all three products rounded. Some lie midway between two bfloat16."""
    rng = np.random.default_rng(seed)
    before, _, _ = stage_before(n, h, w, cin, rng)
    coefficients = before.bn.reshape(COEFFICIENTS, -1)[:, :cin]
    coefficients[SCALE], coefficients[SHIFT] = rng.choice([-1.0, 1.0], cin), rng.integers(-99, 99, cin) / 32
    y = (rng.integers(-99, 288, (n, h, w, cin)) + 0.5) / 32
    z = (y - coefficients[SHIFT]) / coefficients[SCALE]
    lay(z, before.z)
    weight = Parameter((rng.integers(-499, 499, (cin, cout)) / 32).astype(np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "FEW_WEIGHTS", 1 << 30 if few else 0)
        stage = PointwiseStage(nan, before, BatchNorm(kernels, cout), weight, 0.0, 6.0, pairs=True)
    check_stage(stage, z, y, ops.pointwise_forward, ops.pointwise_backward, rng, bfloat16)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    n=IMAGES, h=SIDE, w=SIDE, cin=st.integers(1, 5), cout=CHANNELS, stride=st.integers(1, 3),
    padding=st.sampled_from(["symmetric", "tf"]), seed=SEED,
)  # fmt: skip
def test_stem_stage(n, h, w, cin, cout, stride, padding, seed):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(3, 3, cin, cout)).astype(np.float32)
    stem = Chain(conv=Conv2d(kernels, weight, stride, padding), bn=BatchNorm(kernels, cout))
    config = SimpleNamespace(stem_stride=stride, padding=padding)
    stage = StemStage(nan, SimpleNamespace(config=config, stem=stem), n, h, w)
    scratch = scratch_memory(stage.scratch)
    scratch[:] = np.nan
    x = rng.normal(size=(n, h, w, cin)).astype(np.float32)
    z, cache = ops.conv2d_forward(x.astype(np.float64), weight.astype(np.float64), stride, padding)
    size, size_cache = ops.conv2d_forward(np.abs(x).astype(np.float64), np.abs(weight), stride, padding)
    stage.forward(x.reshape(-1), scratch)
    check(read(stage.z, z.shape), z, size)
    stage.bn[:] = 0
    stage.bn.reshape(COEFFICIENTS, -1)[ALONG_DY] = 1
    dy = rng.normal(size=z.shape).astype(np.float32)
    stage.backward(x.reshape(-1), lay(dy), scratch)
    dw, dw_size = ops.conv2d_backward(dy.astype(np.float64), cache)[1], ops.conv2d_backward(np.abs(dy), size_cache)[1]
    check(stage.weight.grad, dw, dw_size)


@numba.njit
def _gather(window, cin, x, start, rows, a, lda):
    gather_rows(window, cin, x, start, rows, a, lda, rows * lda)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    h=SIDE, w=SIDE, cin=st.integers(1, 5), stride=st.integers(1, 3), padding=st.sampled_from(["symmetric", "tf"]),
    data=st.data(),
)  # fmt: skip
def test_gathered_rows_are_what_each_pixel_sees(h, w, cin, stride, padding, data):
    """Bit for bit, from any pixel on: nothing is computed here."""
    window = window_of(2, h, w, stride, padding)
    pixels = 2 * window.out_h * window.out_w
    start = data.draw(st.integers(0, pixels - 1))
    rows = data.draw(st.integers(1, pixels - start))
    x = np.arange(1, 2 * h * w * cin + 1, dtype=np.float32).reshape(2, h, w, cin)
    lda = spread(9 * cin)
    a = nan(rows * lda + line_floats(w, cin))
    _gather(window, cin, x.reshape(-1), start, rows, a, lda)
    room = np.zeros((2, window.out_h * stride + h + 3, window.out_w * stride + w + 3, cin), np.float32)
    room[:, window.top : window.top + h, window.left : window.left + w] = x
    seen = [
        room[n, i * stride : i * stride + 3, j * stride : j * stride + 3].reshape(-1)
        for n in range(2)
        for i in range(window.out_h)
        for j in range(window.out_w)
    ]
    np.testing.assert_array_equal(a[: rows * lda].reshape(rows, lda)[:, : 9 * cin], seen[start : start + rows])


def unpacked(packed, rows, columns):
    """(rows, whole vectors of columns): each number where the docstring of `pack` says that it is."""
    vectors = padded(columns) // LANES
    whole = vectors // TILE_VECTORS * TILE_VECTORS
    panels = [packed[p * rows * LANES :][: rows * PANEL].reshape(rows, PANEL) for p in range(0, whole, TILE_VECTORS)]
    panels += [packed[v * rows * LANES :][: rows * LANES].reshape(rows, LANES) for v in range(whole, vectors)]
    return np.concatenate(panels, axis=1)


@settings(max_examples=EXAMPLES, deadline=None)
@given(depth=st.integers(1, 40), columns=st.integers(1, 3 * PANEL), seed=SEED)
def test_packed_weights_come_back(depth, columns, seed):
    """And packing the transpose gives the same bits."""
    w = np.random.default_rng(seed).normal(size=(depth, columns)).astype(np.float32)
    packed, other = nan(padded(columns) * depth), nan(padded(columns) * depth)
    pack(w.reshape(-1), depth, columns, False, packed)
    pack(np.ascontiguousarray(w.T).reshape(-1), depth, columns, True, other)
    np.testing.assert_array_equal(packed, other)
    np.testing.assert_array_equal(unpacked(packed, depth, columns)[:, :columns], w)
    assert not unpacked(packed, depth, columns)[:, columns:].any()


@settings(max_examples=EXAMPLES, deadline=None)
@given(depth=st.integers(1, 40), columns=st.integers(1, 3 * PANEL), seed=SEED)
def test_packed_pairs_come_back(depth, columns, seed):
    """Rounded as PyTorch rounds; two rows in one, and zeros for the partner that the last one may lack."""
    w, rows = np.random.default_rng(seed).normal(size=(depth, columns)).astype(np.float32), (depth + 1) // 2
    expected = np.zeros((2 * rows, padded(columns)), np.uint32)
    expected[:depth, :columns] = torch.tensor(w).bfloat16().view(torch.uint16).numpy()
    for transposed, source in ((False, w), (True, w.T)):
        packed = np.full(padded(columns) * rows, 7, np.uint32)
        pack(np.ascontiguousarray(source).reshape(-1), depth, columns, transposed, packed)
        np.testing.assert_array_equal(unpacked(packed, rows, columns), expected[::2] | expected[1::2] << 16)


@numba.njit
def _moments(z, width, block, rows, partial):
    for b in range((rows + block - 1) // block):
        count = min(block, rows - b * block)
        block_moments(z, b * block * width, width, count, 0, width // LANES, partial, b * 2 * width)


@pytest.mark.parametrize(("rows", "block"), [(2, 1), (7, 3), (700, 126), (1001, 1001)])
def test_statistics_of_numbers_far_from_zero(rows, block):
    """Mean 1000, standard deviation 1: mean(z^2) - mean(z)^2 in float32 would leave no digit of the variance."""
    channels, rng = 2 * LANES - 3, np.random.default_rng(rows)
    z = (1000 + rng.normal(size=(rows, channels))).astype(np.float32)
    width, blocks = padded(channels), -(-rows // block)
    partial = nan(blocks * 2 * width)
    _moments(lay(z), width, block, rows, partial)
    counts = np.array([min(block, rows - b * block) for b in range(blocks)], np.float64)
    gamma, beta = rng.uniform(0.5, 2, (2, channels)).astype(np.float32)
    running_mean, running_var = rng.uniform(0.5, 2, (2, channels)).astype(np.float32)
    old = running_mean.astype(np.float64), running_var.astype(np.float64)
    bn = np.zeros((COEFFICIENTS, width), np.float32)
    finish_forward(partial, counts, gamma, beta, 1e-5, 0.3, running_mean, running_var, width, bn.reshape(-1))
    exact = z.astype(np.float64)
    mean, var = exact.mean(axis=0), exact.var(axis=0)
    # A block's own mean is rounded to 1000 * 2^-24 = 6e-5: the deviations lose (6e-5)^2, and digits where two numbers
    # happen to be close.
    np.testing.assert_allclose(bn[MEAN, :channels], mean, rtol=3e-7)
    np.testing.assert_allclose(bn[INV_STD, :channels], 1 / np.sqrt(var + 1e-5), rtol=1e-5, atol=1e-4 if rows < 9 else 0)
    np.testing.assert_allclose(running_mean, 0.7 * old[0] + 0.3 * mean, rtol=3e-7)
    np.testing.assert_allclose(
        running_var, 0.7 * old[1] + 0.3 * exact.var(axis=0, ddof=1), rtol=1e-5, atol=1e-4 if rows < 9 else 0
    )
    scale = gamma / np.sqrt(var + 1e-5)
    np.testing.assert_allclose(bn[SCALE, :channels], scale, rtol=1e-5 if rows > 9 else 1e-3)
    np.testing.assert_allclose(bn[SHIFT, :channels], beta - mean * scale, rtol=1e-5 if rows > 9 else 1e-3)
    assert not bn[:, channels:].any()


@settings(max_examples=EXAMPLES, deadline=None)
@given(chunks=st.integers(1, 16), c=CHANNELS, seed=SEED)
def test_the_gradient_of_batch_norm(chunks, c, seed):
    """Three coefficients give dz: all three terms, against the op on a random dy."""
    rng = np.random.default_rng(seed)
    rows, width = 3 * chunks, padded(c)
    z, dy = 2 + rng.normal(size=(rows, 1, 1, c)), rng.normal(size=(rows, 1, 1, c))
    gamma, beta = rng.normal(size=(2, c)).astype(np.float32)
    _, cache, mean, var = ops.batchnorm_forward(z, gamma.astype(np.float64), beta.astype(np.float64))
    bn = np.zeros((COEFFICIENTS, width), np.float32)
    bn[MEAN, :c], bn[INV_STD, :c] = mean, 1 / np.sqrt(var + 1e-5)
    partial = np.zeros((chunks, 2, width), np.float32)
    pieces = dy.reshape(chunks, 3, c), z.reshape(chunks, 3, c) - mean
    partial[:, 0, :c], partial[:, 1, :c] = pieces[0].sum(axis=1), (pieces[0] * pieces[1]).sum(axis=1)
    dgamma, dbeta = np.empty((2, c), np.float32)
    finish_backward(partial.reshape(-1), chunks, float(rows), gamma, dgamma, dbeta, width, bn.reshape(-1))
    dx, judge_gamma, judge_beta = ops.batchnorm_backward(dy, cache)
    sums = np.abs(dy).sum(axis=(0, 1, 2))
    xhat = np.abs(z).max() / np.sqrt(var)
    check(dgamma, judge_gamma, sums * xhat)
    check(dbeta, judge_beta, sums)
    dz = bn[ALONG_DY, :c] * dy + bn[ALONG_Z, :c] * z + bn[CONSTANT, :c]
    check(dz, dx, np.abs(gamma) / np.sqrt(var) * (np.abs(dy).max() + sums / rows * (1 + xhat**2)))


@settings(max_examples=EXAMPLES, deadline=None)
@given(n=st.integers(1, 20), h=SIDE, w=SIDE, c=CHANNELS, seed=SEED)
def test_pooling(n, h, w, c, seed):
    rng = np.random.default_rng(seed)
    before, z, y = stage_before(max(n, 2), h, w, c, rng)
    n, pixels, width = len(z), h * w, before.padded_channels
    low, high = np.float32(0), np.float32(6)
    pooled = nan((n + TILE_ROWS) * width)
    pool_forward(before.z, width, before.bn, n, pixels, width, low, high, pooled)
    a = np.clip(y, 0, 6)
    check(read(pooled, (n, c)), a.mean(axis=(1, 2)), a)
    apart = width + LANES  # the inference engine's rows, and no batch norm
    far, pooled, endless = nan(n * pixels * apart), nan(n * apart), np.float32(np.inf)
    far.reshape(-1, apart)[:, :width] = read(before.z, (n * pixels, width))
    pool_forward(far, apart, no_norm(c), n, pixels, width, -endless, endless, pooled)
    check(pooled.reshape(n, -1)[:, :c], z.mean(axis=(1, 2), dtype=np.float64), z)
    dpooled = rng.normal(size=(n, c)).astype(np.float32)
    chunks = min(16, n)
    dy, partial = nan(before.z.size), nan(chunks * 2 * width)
    pool_backward(lay(dpooled), before.z, before.bn, n, pixels, width, low, high, dy, chunks, partial)
    expected = np.where((y > 0) & (y < 6), dpooled[:, None, None, :].astype(np.float64) / pixels, 0)
    check(read(dy, y.shape), expected, expected)
    sums = partial.reshape(chunks, 2, width)[:, :, :c].sum(axis=0, dtype=np.float64)
    away = z - before.bn.reshape(COEFFICIENTS, -1)[MEAN, :c]
    check(sums[0], expected.sum(axis=(0, 1, 2)), np.abs(expected).sum(axis=(0, 1, 2)))
    check(sums[1], (expected * away).sum(axis=(0, 1, 2)), np.abs(expected * away).sum(axis=(0, 1, 2)))
