"""The fused training engine: forward and backward of the whole network on a few kernels and one arena.

The layers (`engine/layered.py`) pass each activation through memory four times in the forward pass: convolution, batch
norm twice (statistics, then normalising), clip. Memory is slow, arithmetic is not. Here a convolution writes its raw
output z once and takes the statistics while it is in the cache, and the next one normalises and clips as it loads:

    forward     read z_in, write z_out
    backward    read dy_out, z_out and z_in, write dy_in        (dy: the gradient of the normalised z, before the clip)

A `Stage` is one convolution and the batch norm after it. It has z and the batch norm's numbers per channel, `bn`; a
stage's kernels read those of the stage before it. What stands between the two convolutions, batch norm and ReLU6, is
nowhere stored. `kernels/blocks.py` says how arrays are laid out.
"""

from collections.abc import Callable

import numpy as np

from tinymnv1.engine.inference import InferenceEngine
from tinymnv1.engine.shares import blocks_of, counts_of, equal_bands, shares_of_columns
from tinymnv1.errors import ConfigError
from tinymnv1.kernels.blocks import (
    ALONG_DY,
    BLOCK_ROWS,
    COEFFICIENTS,
    SCALE,
    pack,
    pack_transposed,
    padded,
    spread,
    sum_chunks,
    whole_tiles,
)
from tinymnv1.kernels.compile import CHUNKS, aligned, scratch_memory
from tinymnv1.kernels.fused_depthwise import depthwise_backward, depthwise_forward
from tinymnv1.kernels.fused_ends import pool_backward, pool_forward, stem_backward, stem_forward, stem_scratch
from tinymnv1.kernels.fused_pointwise import pointwise_backward, pointwise_forward, weights_gradient
from tinymnv1.kernels.moments import finish_backward, finish_forward
from tinymnv1.kernels.simd import PANEL, TILE_ROWS
from tinymnv1.layers import BatchNorm, Dropout, Layer
from tinymnv1.model import KERNEL, MobileNetV1
from tinymnv1.ops import softmax_cross_entropy
from tinymnv1.ops.window import Array, span
from tinymnv1.parameters import Parameter

Take = Callable[[int], Array]
"""Gives so many float32 of the arena, not initialised."""

FEW_WEIGHTS = 1 << 15
"""Up to so many weights, each chunk of the rows has its own sum of the weights' gradient."""

BAND_FLOATS = 1 << 16
"""About so many floats of padded input are the scratch memory of a depthwise unit of work: they stay in the cache."""

NOTHING = np.empty(0, np.float32)


class Stage:
    """One convolution and its batch norm: sizes, z, and the batch norm's numbers per channel."""

    def __init__(self, take: Take, norm: Layer, weight: Parameter, images: int, height: int, width: int) -> None:
        """height, width: of the output."""
        assert isinstance(norm, BatchNorm)
        self.norm, self.weight = norm, weight
        self.images, self.height, self.width = images, height, width
        self.channels = norm.params["gamma"].data.size
        self.stride = padded(self.channels)  # of a pixel, in floats
        self.rows = images * height * width
        self.z = take((self.rows + TILE_ROWS) * self.stride)
        self.bn = np.zeros(COEFFICIENTS * self.stride, np.float32)
        self.counts = np.empty(0)
        self.sums = np.empty(0, np.float32)  # partial sums of the batch norm's gradients, filled by the stage after

    def finish_forward(self, moments: Array) -> None:
        params, buffers = self.norm.params, self.norm.buffers
        finish_forward(
            moments,
            self.counts,
            params["gamma"].data,
            params["beta"].data,
            self.norm.eps,
            self.norm.momentum,
            buffers["running_mean"],
            buffers["running_var"],
            self.stride,
            self.bn,
        )

    def finish_backward(self, sums: Array) -> None:
        """With the sums over all dy of this stage, the batch norm's gradients are known."""
        params = self.norm.params
        gamma, beta = params["gamma"], params["beta"]
        chunks = sums.size // (2 * self.stride)
        finish_backward(sums, chunks, float(self.rows), gamma.data, gamma.grad, beta.grad, self.stride, self.bn)


class Product:
    """The matrix product of a pointwise convolution or of the classifier, and its gradients."""

    def __init__(self, take: Take, weight: Parameter, rows: int, low: float, high: float) -> None:
        """low, high: the clip of its input."""
        self.weight, self.rows = weight, rows
        self.cin, self.cout = weight.data.shape
        self.low, self.high = np.float32(low), np.float32(high)
        self.width_in, self.width_out = padded(self.cin), padded(self.cout)
        self.tall = whole_tiles(self.cin)
        self.block, self.blocks = blocks_of(rows)
        self.packed = take(self.width_out * self.cin)
        self.packed_transposed = take(self.width_in * self.cout)
        self.moments = take(self.blocks * 2 * self.width_out)
        self.few = self.cin * self.cout <= FEW_WEIGHTS
        self.chunks = min(CHUNKS, self.blocks) if self.few else self.blocks
        self.sums = take(self.chunks * 2 * self.width_in)
        self.dw = take((self.chunks if self.few else 1) * self.tall * self.width_out)
        self.kept = NOTHING if self.few else take((rows + TILE_ROWS) * spread(self.cin))

    @property
    def scratch(self) -> int:
        """Floats of scratch memory that a thread needs."""
        return self.block * (spread(self.cin) + spread(self.cout) + PANEL) + 2 * PANEL

    def forward(self, z_in: Array, bn_in: Array, z_out: Array, scratch: Array) -> None:
        pack(self.weight.data.reshape(-1), self.cin, self.cout, self.packed)
        pointwise_forward(
            z_in, bn_in, self.cin, self.width_in, self.low, self.high, self.packed, z_out, self.width_out,
            self.rows, self.block, shares_of_columns(self.blocks, self.width_out), scratch, self.moments,
        )  # fmt: skip

    def backward(
        self, dy_out: Array, z_out: Array, bn_out: Array, z_in: Array, bn_in: Array, dy_in: Array, scratch: Array
    ) -> None:
        pack_transposed(self.weight.data.reshape(-1), self.cout, self.cin, self.packed_transposed)
        pointwise_backward(
            dy_out, z_out, bn_out, self.cout, self.width_out, self.packed_transposed, z_in, bn_in, self.cin,
            self.width_in, self.low, self.high, dy_in, self.rows, self.block, self.chunks,
            1 if self.few else shares_of_columns(self.blocks, self.width_in), scratch, self.sums, self.kept,
            self.dw if self.few else NOTHING,
        )  # fmt: skip
        if not self.few:
            weights_gradient(
                self.kept, self.cin, self.width_in, dy_out, z_out, bn_out, self.width_out, self.rows, self.block,
                scratch, self.dw,
            )  # fmt: skip
        chunks = self.chunks if self.few else 1
        grad = self.weight.grad.reshape(-1)
        sum_chunks(self.dw, chunks, self.tall * self.width_out, self.width_out, self.cin, self.cout, grad)


class StemStage(Stage):
    """The 3x3 convolution of the images. It needs no gradient for what it reads."""

    def __init__(self, take: Take, model: MobileNetV1, images: int, height: int, width: int) -> None:
        """height, width: of the images."""
        conv, config = model.stem.layers["conv"], model.config
        self.in_height, self.in_width, self.cin = height, width, config.in_channels
        out_h, self.top, _ = span(height, KERNEL, config.stem_stride, config.padding)
        out_w, self.left, _ = span(width, KERNEL, config.stem_stride, config.padding)
        self.conv_stride = config.stem_stride
        super().__init__(take, model.stem.layers["bn"], conv.params["weight"], images, out_h, out_w)
        self.taps = KERNEL * KERNEL * self.cin
        self.apart = spread(self.taps)
        self.block, blocks = blocks_of(self.rows)
        self.counts = counts_of(self.rows, self.block)
        self.chunks = min(CHUNKS, blocks)
        self.packed = take(self.stride * self.taps)
        self.moments = take(blocks * 2 * self.stride)
        self.tall = whole_tiles(self.taps)
        self.dw = take(self.chunks * self.tall * self.stride)

    @property
    def scratch(self) -> int:
        return stem_scratch(self.block, self.apart, self.stride, (self.in_width + 2) * self.cin)

    def forward(self, x: Array, scratch: Array) -> None:
        pack(self.weight.data.reshape(-1), self.taps, self.channels, self.packed)
        stem_forward(
            x, self.in_height, self.in_width, self.cin, self.packed, self.z, self.rows, self.height, self.width,
            self.stride, self.conv_stride, self.top, self.left, self.block, self.apart, scratch, self.moments,
        )  # fmt: skip
        self.finish_forward(self.moments)

    def backward(self, x: Array, dy: Array, scratch: Array) -> None:
        stem_backward(
            x, self.in_height, self.in_width, self.cin, dy, self.z, self.bn, self.rows, self.height, self.width,
            self.stride, self.conv_stride, self.top, self.left, self.block, self.chunks, self.apart, scratch, self.dw,
        )  # fmt: skip
        grad = self.weight.grad.reshape(-1)
        sum_chunks(self.dw, self.chunks, self.tall * self.stride, self.stride, self.taps, self.channels, grad)


class DepthwiseStage(Stage):
    """A depthwise convolution and its batch norm."""

    def __init__(
        self, take: Take, before: Stage, norm: Layer, weight: Parameter, conv_stride: int, padding: str,
        low: float, high: float,
    ) -> None:  # fmt: skip
        self.before, self.conv_stride = before, conv_stride
        self.low, self.high = np.float32(low), np.float32(high)
        out_h, self.top, _ = span(before.height, KERNEL, conv_stride, padding)
        out_w, self.left, _ = span(before.width, KERNEL, conv_stride, padding)
        super().__init__(take, norm, weight, before.images, out_h, out_w)
        self.packed = np.zeros((KERNEL * KERNEL, self.stride), np.float32)

        columns = (out_w - 1) * conv_stride + KERNEL
        rows = BAND_FLOATS // (columns * self.stride)  # of padded input that fit
        self.band = equal_bands(out_h, (rows - KERNEL) // conv_stride + 1)
        whole = self.band == out_h
        self.per_unit = max(min(-(-BLOCK_ROWS // (out_h * out_w)), self.images // CHUNKS), 1) if whole else 1
        if whole:
            self.counts = counts_of(self.rows, self.per_unit * out_h * out_w)
        else:
            self.counts = np.tile(counts_of(out_h, self.band) * out_w, self.images)
        self.moments = take(self.counts.size * 2 * self.stride)

        rows = BAND_FLOATS // ((before.width + KERNEL - 1) * self.stride)
        self.back_band = equal_bands(before.height, rows - KERNEL + 1)
        units = self.images * -(-before.height // self.back_band)
        self.chunks = min(CHUNKS, units)
        self.sums = take(self.chunks * 2 * self.stride)
        self.dw = take(self.chunks * KERNEL * KERNEL * self.stride)

    @property
    def scratch(self) -> int:
        forward = ((self.band - 1) * self.conv_stride + KERNEL) * ((self.width - 1) * self.conv_stride + KERNEL)
        backward = (self.back_band + KERNEL - 1) * (self.before.width + KERNEL - 1)
        return max(forward, backward) * self.stride

    def forward(self, scratch: Array) -> None:
        before = self.before
        self.packed[:, : self.channels] = self.weight.data.reshape(-1, self.channels)
        depthwise_forward(
            before.z, before.bn, before.height, before.width, self.packed.reshape(-1), self.z, self.images,
            self.height, self.width, self.stride, self.conv_stride, self.top, self.left, self.low, self.high,
            self.per_unit, self.band, scratch, self.moments,
        )  # fmt: skip
        self.finish_forward(self.moments)

    def backward(self, dy_out: Array, dy_in: Array, scratch: Array) -> None:
        before = self.before
        depthwise_backward(
            dy_out, self.z, self.bn, self.height, self.width, self.packed.reshape(-1), before.z, before.bn, dy_in,
            self.images, before.height, before.width, self.stride, self.conv_stride, self.top, self.left,
            self.low, self.high, self.back_band, self.chunks, scratch, self.sums, self.dw,
        )  # fmt: skip
        taps = KERNEL * KERNEL
        grad = self.weight.grad.reshape(-1)
        sum_chunks(self.dw, self.chunks, taps * self.stride, self.stride, taps, self.channels, grad)
        before.finish_backward(self.sums)


class PointwiseStage(Stage):
    """A pointwise convolution and its batch norm."""

    def __init__(self, take: Take, before: Stage, norm: Layer, weight: Parameter, low: float, high: float) -> None:
        super().__init__(take, norm, weight, before.images, before.height, before.width)
        self.before = before
        self.product = Product(take, weight, self.rows, low, high)
        self.counts = counts_of(self.rows, self.product.block)

    @property
    def scratch(self) -> int:
        return self.product.scratch

    def forward(self, scratch: Array) -> None:
        self.product.forward(self.before.z, self.before.bn, self.z, scratch)
        self.finish_forward(self.product.moments)

    def backward(self, dy_out: Array, dy_in: Array, scratch: Array) -> None:
        before = self.before
        self.product.backward(dy_out, self.z, self.bn, before.z, before.bn, dy_in, scratch)
        before.finish_backward(self.product.sums)


class Head:
    """Global mean, dropout and classifier."""

    def __init__(self, take: Take, model: MobileNetV1, before: Stage, low: float, high: float) -> None:
        self.before, self.classifier = before, model.classifier
        self.low, self.high = np.float32(low), np.float32(high)
        self.dropout = model.net.layers.get("dropout")
        assert self.dropout is None or isinstance(self.dropout, Dropout)
        images = before.images
        # No batch norm and no clip here: y = 1 * z + 0, dz = 1 * dy + 0 * z + 0, and bounds that nothing exceeds.
        self.product = Product(take, model.classifier.params["weight"], images, -np.inf, np.inf)
        self.bn_in, self.bn_out = (
            np.zeros((COEFFICIENTS, padded(n)), np.float32) for n in model.classifier.params["weight"].data.shape
        )
        for bn in (self.bn_in, self.bn_out):
            bn[[SCALE, ALONG_DY]] = 1
        rows = images + TILE_ROWS
        self.pooled = take(rows * before.stride).reshape(rows, before.stride)
        self.dpooled = take(rows * before.stride).reshape(rows, before.stride)
        self.logits = take(rows * self.product.width_out).reshape(rows, self.product.width_out)
        self.dlogits = take(rows * self.product.width_out).reshape(rows, self.product.width_out)
        self.chunks = min(CHUNKS, images)
        self.sums = take(self.chunks * 2 * before.stride)

    @property
    def scratch(self) -> int:
        return self.product.scratch

    def forward(self, scratch: Array) -> Array:
        before, images = self.before, self.before.images
        pixels = before.height * before.width
        pooled = self.pooled.reshape(-1)
        pool_forward(before.z, before.bn, images, pixels, before.stride, self.low, self.high, pooled)
        if self.dropout is not None:
            features = self.pooled[:images, : before.channels]
            features[...] = self.dropout.forward(features.copy(), train=True)
        self.product.forward(pooled, self.bn_in.reshape(-1), self.logits.reshape(-1), scratch)
        return self.logits[:images, : self.product.cout] + self.classifier.params["bias"].data

    def backward(self, dlogits: Array, dy: Array, scratch: Array) -> None:
        before, images, classes = self.before, self.before.images, self.product.cout
        self.classifier.params["bias"].grad[...] = dlogits.sum(axis=0)
        self.dlogits[:images, :classes] = dlogits
        self.dlogits[:images, classes:] = 0
        dpooled = self.dpooled.reshape(-1)
        self.product.backward(
            self.dlogits.reshape(-1), self.logits.reshape(-1), self.bn_out.reshape(-1), self.pooled.reshape(-1),
            self.bn_in.reshape(-1), dpooled, scratch,
        )  # fmt: skip
        if self.dropout is not None:
            gradient = self.dpooled[:images, : before.channels]
            gradient[...] = self.dropout.backward(gradient.copy())
        pixels = before.height * before.width
        pool_backward(
            dpooled, before.z, before.bn, images, pixels, before.stride, self.low, self.high, dy, self.chunks,
            self.sums,
        )  # fmt: skip
        before.finish_backward(self.sums)


class Plan:
    """All stages for one shape of the batch, and their memory."""

    def __init__(self, take: Take, model: MobileNetV1, images: int, height: int, width: int) -> None:
        low, high = 0.0, 6.0 if model.config.activation == "relu6" else np.inf
        self.stem = StemStage(take, model, images, height, width)
        self.stages: list[DepthwiseStage | PointwiseStage] = []
        before: Stage = self.stem
        for block, (_, _, stride) in zip(model.blocks, model.config.blocks, strict=True):
            layers = block.layers
            norm, weight = layers["depthwise_bn"], layers["depthwise"].params["weight"]
            stage = DepthwiseStage(take, before, norm, weight, stride, model.config.padding, low, high)
            norm, weight = layers["pointwise_bn"], layers["pointwise"].params["weight"]
            before = PointwiseStage(take, stage, norm, weight, low, high)
            self.stages += [stage, before]
        self.head = Head(take, model, before, low, high)
        every: list[Stage] = [self.stem, *self.stages]
        largest = max(stage.z.size for stage in every)
        self.gradients = take(largest), take(largest)  # dy of one stage, and of the one before it
        self.scratch_floats = max(part.scratch for part in (self.stem, *self.stages, self.head))


class TrainingEngine:
    """Forward, loss and backward of a model, fused. The same face as `LayerEngine`, and the same results."""

    def __init__(self, model: MobileNetV1) -> None:
        """Raises ConfigError unless the model's backend is "numba"."""
        if model.backend != "numba":
            raise ConfigError('the fused engine needs backend="numba"; use LayerEngine for backend="numpy"')
        self.model = model
        self._arena = self._scratch = NOTHING
        self._plans: dict[tuple[int, ...], Plan] = {}

    def forward_backward(self, x: Array, labels: Array, label_smoothing: float = 0.0) -> tuple[float, Array]:
        """One training step's gradients.

        x: (N, H, W, C) float32.  labels: (N,) integers.
        Fills p.grad of every parameter and updates the running statistics. Returns the mean loss in nats and the
        logits, (N, classes). Raises ConfigError as the model's own forward does.
        """
        x = self.model.check_images(x)
        plan = self._plan(*x.shape[:3])
        flat, scratch = np.ascontiguousarray(x).reshape(-1), self._scratch
        plan.stem.forward(flat, scratch)
        for stage in plan.stages:
            stage.forward(scratch)
        logits = plan.head.forward(scratch)
        loss, dlogits = softmax_cross_entropy(logits, labels, label_smoothing)
        dy, dy_before = plan.gradients
        plan.head.backward(dlogits, dy, scratch)
        for stage in reversed(plan.stages):
            stage.backward(dy, dy_before, scratch)
            dy, dy_before = dy_before, dy
        plan.stem.backward(flat, dy, scratch)
        return loss, logits

    def _plan(self, images: int, height: int, width: int) -> Plan:
        """The stages for this shape. They are drawn up twice: to see how much memory they take, and on that memory."""
        shape = (images, height, width)
        if shape not in self._plans:
            line, floats = 64 // 4, 0

            def count(size: int) -> Array:
                nonlocal floats
                floats += -(-size // line) * line
                return np.empty(size, np.float32)

            sketch = Plan(count, self.model, *shape)
            if floats > self._arena.size:
                self._plans.clear()
                self._arena = aligned(floats)
            if sketch.scratch_floats > self._scratch.size // max(len(self._scratch), 1):
                self._scratch = scratch_memory(-(-sketch.scratch_floats // line) * line)
            used = 0

            def take(size: int) -> Array:
                nonlocal used
                start = used
                used += -(-size // line) * line
                return self._arena[start : start + size]

            self._plans[shape] = Plan(take, self.model, *shape)
        return self._plans[shape]

    def __call__(self, x: Array) -> Array:
        """Logits (N, classes) in evaluation mode. It folds the weights anew: for many batches use InferenceEngine."""
        return InferenceEngine(self.model)(x)
