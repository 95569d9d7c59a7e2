"""The fused training engine: forward and backward of the whole network on a few kernels and one arena.

The layers (`engine/layered.py`) pass each activation through memory eight times in the forward pass: the convolution
reads and writes, batch norm reads three times (mean, variance, normalising) and writes, the clip reads and writes.
Memory is slow, arithmetic is not. Here a convolution writes its raw output z once and takes the statistics while it is
in the cache, and the next one normalises and clips as it loads:

    forward     read z_in, write z_out
    backward    read dy_out, z_out and z_in, write dy_in        (dy: the gradient of the normalised z, before the clip)

A `Stage` is one convolution and the batch norm after it. It has z and the batch norm's numbers per channel, `bn`; a
stage's kernels read those of the stage before it. What stands between the two convolutions, batch norm and ReLU6, is
nowhere stored. `kernels/blocks.py` says how arrays are laid out.
"""

from collections.abc import Callable

import numpy as np

from tinymnv1.engine import PRECISIONS, first_run
from tinymnv1.engine.inference import InferenceEngine
from tinymnv1.engine.shares import NO_WINDOW, NOTHING, counts_of, equal_bands, product_shape, window_of
from tinymnv1.errors import ConfigError
from tinymnv1.kernels.blocks import (
    BLOCK_ROWS,
    COEFFICIENTS,
    Window,
    no_norm,
    pack,
    padded,
    spread,
    sum_chunks,
    whole_gradient_tiles,
)
from tinymnv1.kernels.compile import CHUNKS, aligned, aligned_zeros, scratch_memory, whole_lines
from tinymnv1.kernels.fused_depthwise import SUMS, depthwise_backward, depthwise_forward
from tinymnv1.kernels.fused_pointwise import pointwise_backward, pointwise_forward, weights_gradient
from tinymnv1.kernels.fused_pool import pool_backward, pool_forward
from tinymnv1.kernels.gather import line_floats
from tinymnv1.kernels.gradient_parts import part_floats, shared_out, whole_gradient
from tinymnv1.kernels.moments import finish_backward, finish_forward
from tinymnv1.kernels.simd import LANES, PANEL, TILE_ROWS
from tinymnv1.layers import BatchNorm, Dropout, Layer, check_batch
from tinymnv1.model import KERNEL, MobileNetV1
from tinymnv1.ops import softmax_cross_entropy
from tinymnv1.ops.loss import check_labels, check_smoothing
from tinymnv1.ops.window import Array
from tinymnv1.parameters import Parameter

Take = Callable[[int], Array]
"""Gives so many float32 of the arena, not initialised."""

FEW_WEIGHTS = 1 << 15
"""Up to so many weights, each chunk of the rows has its own sum of the weights' gradient."""

BAND_FLOATS = 1 << 16
"""About so many floats of padded input are the scratch memory of a depthwise unit of work: they stay in the cache."""


class Stage:
    """One convolution and its batch norm.

    z: what the convolution gave, before the batch norm: (rows, padded channels), flat, and a tile more, since the last
    one may reach beyond the rows.  bn: the batch norm as COEFFICIENTS numbers per channel (`kernels.blocks`).
    counts: how many rows each of the parts was that the moments of z were taken of.
    """

    def __init__(self, take: Take, norm: Layer, weight: Parameter, images: int, height: int, width: int) -> None:
        """height, width: of the output."""
        assert isinstance(norm, BatchNorm)
        self.norm, self.weight = norm, weight
        self.images, self.height, self.width = images, height, width
        self.channels = norm.params["gamma"].data.size
        self.padded_channels = padded(self.channels)  # floats from one pixel to the next
        self.rows = images * height * width
        check_batch(self.rows)
        self.z = take((self.rows + TILE_ROWS) * self.padded_channels)
        self.bn = aligned_zeros(COEFFICIENTS * self.padded_channels)
        self.counts = np.empty(0)

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
            self.padded_channels,
            self.bn,
        )

    def finish_backward(self, sums: Array) -> None:
        """With the sums over all dy of this stage, the batch norm's gradients are known."""
        params = self.norm.params
        gamma, beta = params["gamma"], params["beta"]
        chunks = sums.size // (2 * self.padded_channels)
        finish_backward(
            sums, chunks, float(self.rows), gamma.data, gamma.grad, beta.grad, self.padded_channels, self.bn
        )


class Product:
    """The matrix product of a pointwise convolution, of the stem or of the classifier, and its gradients.

    packed, packed_transposed: the weights as the tiles read them.  moments: of each block of rows of the result, two
    numbers a channel, from which the batch norm's statistics follow.  sums: of each chunk of rows, two sums a channel
    of the input's gradient, which the batch norm before it needs.  kept: the normalised input, for the gradient of many
    weights; of few weights each chunk makes its own dw, and the sum is taken at the end.
    """

    def __init__(
        self,
        take: Take,
        weight: Parameter,
        rows: int,
        low: float,
        high: float,
        window: Window = NO_WINDOW,
        pairs: bool = False,
    ) -> None:
        """low, high: the clip of its input.  window: of the stem.  pairs: its factors are pairs of bfloat16."""
        self.weight, self.window, self.kind = weight, window, np.uint32 if pairs else np.float32
        self.low, self.high = np.float32(low), np.float32(high)
        cout = weight.shape[-1]
        cin = weight.size // cout
        self.few = weight.size <= FEW_WEIGHTS or window is not NO_WINDOW  # the stem's rows are not kept: gathered twice
        self.shape = product_shape(rows, cin, cout, split_in=not self.few)
        self.packed = take(padded(cout) * cin).view(self.kind)
        self.packed_transposed = take(padded(cin) * cout).view(self.kind)
        self.moments = take(self.shape.blocks * 2 * padded(cout))
        self.chunks = min(CHUNKS, self.shape.blocks) if self.few else self.shape.blocks
        self.sums = take(self.chunks * 2 * padded(cin))
        self.dw = take((self.chunks if self.few else 1) * whole_gradient_tiles(cin) * padded(cout))
        kept = -(-rows // 2) if pairs else rows
        self.kept = (NOTHING if self.few else take((kept + TILE_ROWS) * spread(cin))).view(self.kind)
        line = line_floats(window.width, cin // (KERNEL * KERNEL))
        self.whole = whole_gradient(rows, cin, cout)
        floats = self.shape.block * (spread(cin) + spread(cout) + PANEL) + line
        self.scratch = floats if self.few else max(floats, part_floats(self.whole))  # floats a thread needs

    def forward(self, z_in: Array, bn_in: Array, z_out: Array, scratch: Array, image: Array = NOTHING) -> None:
        shape = self.shape
        pack(self.weight.data.reshape(-1), shape.channels_in, shape.channels_out, False, self.packed)
        pointwise_forward(
            shape, self.window, image, self.low, self.high, z_in, bn_in, self.packed, z_out,
            scratch.view(self.kind), self.moments,
        )  # fmt: skip

    def backward(
        self, dy_out: Array, z_out: Array, bn_out: Array, z_in: Array, bn_in: Array, dy_in: Array, scratch: Array,
        image: Array = NOTHING,
    ) -> None:  # fmt: skip
        shape, dw, scratch = self.shape, self.dw if self.few else NOTHING, scratch.view(self.kind)
        pack(self.weight.data.reshape(-1), shape.channels_out, shape.channels_in, True, self.packed_transposed)
        pointwise_backward(
            shape, self.window, image, self.low, self.high, dy_out, z_out, bn_out, self.packed_transposed, z_in, bn_in,
            dy_in, self.chunks, scratch, self.sums, self.kept, dw,
        )  # fmt: skip
        if not self.few:
            self.weights_gradient(dy_out, z_out, bn_out, scratch)
        sum_weights(self.dw, self.chunks if self.few else 1, shape.channels_in, shape.width_out, self.weight)

    def weights_gradient(self, dy_out: Array, z_out: Array, bn_out: Array, scratch: Array) -> None:
        """The sum over all rows, if the weights are many."""
        parts = shared_out(self.whole)
        weights_gradient(self.shape, parts, self.kept, dy_out, z_out, bn_out, scratch.view(self.kind), self.dw)


def sum_weights(dw: Array, chunks: int, rows: int, width: int, weight: Parameter) -> None:
    """weight.grad = the sum over the chunks of dw: (chunks, at least `rows`, width), flat."""
    grad = weight.grad.reshape(-1)
    sum_chunks(dw, chunks, dw.size // chunks, width, rows, grad.size // rows, grad)


class StemStage(Stage):
    """The 3x3 convolution of the images: a product whose rows are gathered. Nobody needs the images' gradient."""

    def __init__(self, take: Take, model: MobileNetV1, images: int, height: int, width: int) -> None:
        """height, width: of the images."""
        config, weight = model.config, model.stem.layers["conv"].params["weight"]
        window = window_of(images, height, width, config.stem_stride, config.padding)
        super().__init__(take, model.stem.layers["bn"], weight, images, window.out_h, window.out_w)
        self.product = Product(take, weight, self.rows, 0, 0, window)
        self.counts, self.scratch = counts_of(self.rows, self.product.shape.block), self.product.scratch

    def forward(self, image: Array, scratch: Array) -> None:
        self.product.forward(NOTHING, NOTHING, self.z, scratch, image)
        self.finish_forward(self.product.moments)

    def backward(self, image: Array, dy: Array, scratch: Array) -> None:
        self.product.backward(dy, self.z, self.bn, NOTHING, NOTHING, NOTHING, scratch, image)


class DepthwiseStage(Stage):
    """A depthwise convolution and its batch norm."""

    def __init__(
        self,
        take: Take,
        before: Stage,
        norm: Layer,
        weight: Parameter,
        stride: int,
        padding: str,
        low: float,
        high: float,
    ) -> None:
        """stride: of the convolution.  low, high: the clip of its input."""
        self.before, self.low, self.high = before, np.float32(low), np.float32(high)
        self.window = window = window_of(before.images, before.height, before.width, stride, padding)
        images, height, width, out_h, out_w, *_ = window
        super().__init__(take, norm, weight, images, out_h, out_w)
        taps = KERNEL * KERNEL
        self.rows_of_weights = np.zeros((taps, self.padded_channels), np.float32)
        self.packed = aligned_zeros(taps * self.padded_channels)  # the same, vector by vector of channels

        columns = (out_w - 1) * stride + KERNEL
        rows = BAND_FLOATS // (columns * self.padded_channels)  # of padded input that fit
        self.band = equal_bands(out_h, (rows - KERNEL) // stride + 1)
        forward = ((self.band - 1) * stride + KERNEL) * columns
        if self.band == out_h:  # whole images, and if they are small, several
            self.per_unit = max(min(-(-BLOCK_ROWS // (out_h * out_w)), images // CHUNKS), 1)
            self.counts = counts_of(self.rows, self.per_unit * out_h * out_w)
        else:
            self.per_unit = 1
            self.counts = np.tile(counts_of(out_h, self.band) * out_w, images)
        self.moments = take(self.counts.size * 2 * self.padded_channels)

        columns = width + KERNEL - 1
        self.back_band = equal_bands(height, BAND_FLOATS // (columns * self.padded_channels) - KERNEL + 1)
        backward = (self.back_band + KERNEL - 1) * columns
        self.chunks = min(CHUNKS, images * -(-height // self.back_band))
        self.sums = take(self.chunks * 2 * self.padded_channels)
        self.dw = take(self.chunks * taps * self.padded_channels)
        self.scratch = (max(forward, backward) + SUMS) * self.padded_channels + width * LANES

    def forward(self, scratch: Array) -> None:
        before = self.before
        rows = self.rows_of_weights
        rows[:, : self.channels] = self.weight.data.reshape(-1, self.channels)
        self.packed.reshape(-1, len(rows), LANES)[...] = rows.reshape(len(rows), -1, LANES).swapaxes(0, 1)
        depthwise_forward(
            self.window, self.padded_channels, self.low, self.high, before.z, before.bn, self.packed,
            self.z, self.counts.size, self.per_unit, self.band, scratch, self.moments,
        )  # fmt: skip
        self.finish_forward(self.moments)

    def backward(self, dy_out: Array, dy_in: Array, scratch: Array) -> None:
        before = self.before
        depthwise_backward(
            self.window, self.padded_channels, self.low, self.high, dy_out, self.z, self.bn, self.packed,
            before.z, before.bn, dy_in, self.back_band, self.chunks, scratch, self.sums, self.dw,
        )  # fmt: skip
        sum_weights(self.dw, self.chunks, KERNEL * KERNEL, self.padded_channels, self.weight)
        before.finish_backward(self.sums)


class PointwiseStage(Stage):
    """A pointwise convolution and its batch norm."""

    def __init__(
        self, take: Take, before: Stage, norm: Layer, weight: Parameter, low: float, high: float, pairs: bool
    ) -> None:
        """low, high: the clip of its input.  pairs: the product's factors are rounded to bfloat16."""
        super().__init__(take, norm, weight, before.images, before.height, before.width)
        self.before, self.product = before, Product(take, weight, self.rows, low, high, pairs=pairs)
        self.counts, self.scratch = counts_of(self.rows, self.product.shape.block), self.product.scratch

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
        # No batch norm and no clip here: bounds that nothing exceeds.
        self.product = Product(take, model.classifier.params["weight"], images, -np.inf, np.inf)
        self.bn_in, self.bn_out = (no_norm(n) for n in model.classifier.params["weight"].data.shape)
        rows = images + TILE_ROWS
        self.pooled = take(rows * before.padded_channels).reshape(rows, before.padded_channels)
        self.dpooled = take(rows * before.padded_channels).reshape(rows, before.padded_channels)
        self.logits = take(rows * self.product.shape.width_out).reshape(rows, self.product.shape.width_out)
        self.dlogits = take(rows * self.product.shape.width_out).reshape(rows, self.product.shape.width_out)
        self.chunks = min(CHUNKS, images)
        self.sums = take(self.chunks * 2 * before.padded_channels)
        self.scratch = self.product.scratch

    def forward(self, scratch: Array) -> Array:
        before, images = self.before, self.before.images
        pixels = before.height * before.width
        pooled = self.pooled.reshape(-1)
        width = before.padded_channels
        pool_forward(before.z, width, before.bn, images, pixels, width, self.low, self.high, pooled)
        if self.dropout is not None:
            features = self.pooled[:images, : before.channels]
            features[...] = self.dropout.forward(features.copy(), train=True)
        self.product.forward(pooled, self.bn_in, self.logits.reshape(-1), scratch)
        return self.logits[:images, : self.product.shape.channels_out] + self.classifier.params["bias"].data

    def backward(self, dlogits: Array, dy: Array, scratch: Array) -> None:
        before, images, classes = self.before, self.before.images, self.product.shape.channels_out
        self.classifier.params["bias"].grad[...] = dlogits.sum(axis=0)
        self.dlogits[:images, :classes] = dlogits
        self.dlogits[:images, classes:] = 0
        dpooled = self.dpooled.reshape(-1)
        self.product.backward(
            self.dlogits.reshape(-1), self.logits.reshape(-1), self.bn_out, self.pooled.reshape(-1),
            self.bn_in, dpooled, scratch,
        )  # fmt: skip
        if self.dropout is not None:
            gradient = self.dpooled[:images, : before.channels]
            gradient[...] = self.dropout.backward(gradient.copy())
        pixels = before.height * before.width
        pool_backward(
            dpooled, before.z, before.bn, images, pixels, before.padded_channels, self.low, self.high, dy, self.chunks,
            self.sums,
        )  # fmt: skip
        before.finish_backward(self.sums)


class Plan:
    """All stages for one shape of the batch, and their memory.

    Each forward reads the z of the stage before it, normalising as it loads. Each backward gets dy_out, the gradient of
    its own batch norm's and ReLU6's result, and writes dy_in, that of the stage before.
    """

    def __init__(self, take: Take, model: MobileNetV1, images: int, height: int, width: int, pairs: bool) -> None:
        low, high = 0.0, 6.0 if model.config.activation == "relu6" else np.inf
        self.stem = StemStage(take, model, images, height, width)
        self.stages: list[DepthwiseStage | PointwiseStage] = []
        before: Stage = self.stem
        for block, (_, _, stride) in zip(model.blocks, model.config.blocks, strict=True):
            layers = block.layers
            norm, weight = layers["depthwise_bn"], layers["depthwise"].params["weight"]
            stage = DepthwiseStage(take, before, norm, weight, stride, model.config.padding, low, high)
            norm, weight = layers["pointwise_bn"], layers["pointwise"].params["weight"]
            before = PointwiseStage(take, stage, norm, weight, low, high, pairs)
            self.stages += [stage, before]
        self.head = Head(take, model, before, low, high)
        every: list[Stage] = [self.stem, *self.stages]
        largest = max(stage.z.size for stage in every)
        self.gradients = take(largest), take(largest)  # dy of one stage, and of the one before it
        self.scratch = scratch_memory(max(part.scratch for part in (self.stem, *self.stages, self.head)), take)

    def forward(self, image: Array) -> Array:
        """image: the batch, flat.  Returns the logits (N, classes)."""
        self.stem.forward(image, self.scratch)
        for stage in self.stages:
            stage.forward(self.scratch)
        return self.head.forward(self.scratch)

    def backward(self, image: Array, dlogits: Array) -> None:
        """All gradients. image: as the forward pass read it.  dlogits: (N, classes)."""
        dy, dy_before = self.gradients
        self.head.backward(dlogits, dy, self.scratch)
        for stage in reversed(self.stages):
            stage.backward(dy, dy_before, self.scratch)
            dy, dy_before = dy_before, dy
        self.stem.backward(image, dy, self.scratch)

    def compile_weights_gradient(self) -> None:
        """Compile that kernel, if there is use for it, by calling it on memory that holds nothing yet."""
        for stage in self.stages:
            if isinstance(stage, PointwiseStage) and not stage.product.few:
                stage.product.weights_gradient(self.gradients[0], stage.z, stage.bn, self.scratch)
                return


class TrainingEngine:
    """Forward, loss and backward of a model, fused. The same face as `LayerEngine`; in float32, the same to rounding.

    One thing rounds more: a batch norm's mean is part of its shift here, while the layers subtract it first. That shows
    where a channel's spread in the batch is nothing beside its mean (a million times smaller): then 1 / sqrt(eps) makes
    the rounding of the mean large, here as in PyTorch.
    """

    def __init__(self, model: MobileNetV1, precision: str = "float32") -> None:
        """precision: of the factors of the pointwise products, "float32" or "bfloat16".

        Sums are float32 with both, and so is everything else: weights, stem, depthwise convolutions, batch norm,
        classifier (mixed precision: Micikevicius et al. 2018, arXiv 1710.03740; with bfloat16: Kalamkar et al. 2019,
        arXiv 1905.12322). Raises ConfigError on any other precision, and unless the model's backend is "numba".
        """
        if precision not in PRECISIONS:
            raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        if model.backend != "numba":
            raise ConfigError('the fused engine needs backend="numba"; use LayerEngine for backend="numpy"')
        self.model, self.precision = model, precision
        self._arena = NOTHING
        self._plans: dict[tuple[int, ...], Plan] = {}

    def forward_backward(self, x: Array, labels: Array, label_smoothing: float = 0.0) -> tuple[float, Array]:
        """One training step's gradients.

        x: (N, H, W, C) float32.  labels: (N,) integers.
        Fills p.grad of every parameter and updates the running statistics. Returns the mean loss in nats and the
        logits, (N, classes). Raises ConfigError as the model's own forward does, and on labels or a smoothing that do
        not fit, before anything has changed.
        """
        x = self.model.check_images(x)
        check_labels(labels, len(x), self.model.config.num_classes)
        check_smoothing(label_smoothing)
        first = not self._plans
        if first:
            first_run.begin(f"backward {self.precision}")
        plan = self._plan(*x.shape[:3])
        flat = np.ascontiguousarray(x).reshape(-1)
        logits = plan.forward(flat)
        if first:
            first_run.finish(f"weights' gradient {self.precision}")
            plan.compile_weights_gradient()
            first_run.finish(f"backward {self.precision}")
        loss, dlogits = softmax_cross_entropy(logits, labels, label_smoothing)
        plan.backward(flat, dlogits)
        return loss, logits

    def compile_backward(self) -> None:
        """Compile the kernels of a backward pass by calling them on memory that holds nothing (`first_run`)."""
        images, size = 2, 32
        plan = self._plan(images, size, size)
        image = np.zeros(images * size * size * self.model.config.in_channels, np.float32)
        plan.backward(image, np.zeros((images, self.model.config.num_classes), np.float32))

    def compile_weights_gradient(self) -> None:
        """The same for the kernel that makes the gradient of many weights, if this model has any."""
        self._plan(2, 32, 32).compile_weights_gradient()

    def _plan(self, images: int, height: int, width: int) -> Plan:
        """The stages for this shape. They are drawn up twice: to see how much memory they take, and on that memory."""
        shape = (images, height, width)
        if shape not in self._plans:
            floats = used = 0

            def count(size: int) -> Array:
                nonlocal floats
                floats += whole_lines(size)
                return np.empty(size, np.float32)

            def take(size: int) -> Array:
                nonlocal used
                start = used
                used += whole_lines(size)
                return self._arena[start : start + size]

            pairs = self.precision == "bfloat16"
            Plan(count, self.model, *shape, pairs)
            if floats > self._arena.size:
                self._plans.clear()
                self._arena = aligned(floats)

            self._plans[shape] = Plan(take, self.model, *shape, pairs)
        return self._plans[shape]

    def __call__(self, x: Array) -> Array:
        """Logits (N, classes) in evaluation mode. It folds the weights anew: for many batches use InferenceEngine."""
        return InferenceEngine(self.model)(x)
