"""The inference engine: batch norm folded into the convolutions, weights packed once, one arena.

In evaluation batch norm is  y = scale z + shift  with  scale = gamma / sqrt(running_var + eps)  and
shift = beta - running_mean scale.  z is linear in the weights, so  scale w  in place of w and a bias of  shift  give y
at once; the clip follows in the register in which y was summed up.

Activations live in two buffers that take turns: each convolution reads one and writes the other. The first steps, whose
activations are large, do a few images at a time, in a pair of buffers of their own, so that what one step writes is
still in the cache when the next one reads it. The last of them writes to its images' place in the other pair, where the
later steps, whose weights are large, do the whole batch. For each shape of the batch a plan is kept: the kernels to
call, with all their arguments.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from tinymnv1.engine import first_run
from tinymnv1.engine.shares import NO_WINDOW, NOTHING, equal_bands, product_shape, window_of
from tinymnv1.errors import ConfigError
from tinymnv1.kernels.blocks import Window, no_norm, pack, padded, shares_of_columns, spread, whole_tiles
from tinymnv1.kernels.compile import CHUNKS, aligned, scratch_memory
from tinymnv1.kernels.fused_pointwise import ProductShape
from tinymnv1.kernels.fused_pool import pool_forward
from tinymnv1.kernels.gather import line_floats
from tinymnv1.kernels.inference import depthwise_inference, product_inference, separable_inference
from tinymnv1.kernels.simd import TILE_ROWS
from tinymnv1.kernels.strips import packed_filter
from tinymnv1.layers import BatchNorm, Layer
from tinymnv1.model import MobileNetV1
from tinymnv1.ops.window import Array

BAND_FLOATS = 1 << 15  # of its input that one unit of work of a depthwise convolution reads: 128 KiB
FUSED_FLOATS = 3 << 15  # scratch memory of a depthwise and a pointwise convolution in one: 384 KiB
GROUP_FLOATS = 1 << 19  # input and output of a step for the images that the first steps do at a time, one at least


def apart(channels: int) -> int:
    """The distance of an activation's rows: `padded`, or `spread` where a few rows would fill a first-level set."""
    return padded(channels) if channels < 256 else spread(channels)


Call = Callable[[], None]
"""A kernel with its arguments."""


def _folded(norm: Layer) -> tuple[Array, Array]:
    """(scale, shift) of a batch norm in evaluation, (C,) each."""
    assert isinstance(norm, BatchNorm)
    params, buffers = norm.params, norm.buffers
    scale = params["gamma"].data / np.sqrt(buffers["running_var"] + np.float32(norm.eps))
    return scale, params["beta"].data - buffers["running_mean"] * scale


def _padded_row(values: Array) -> Array:
    row = aligned(padded(values.size))
    row[: values.size], row[values.size :] = values, 0
    return row


def _packed(weight: Array) -> Array:
    """weight: (depth, columns)."""
    depth, columns = weight.shape
    packed = aligned(padded(columns) * depth)
    pack(np.ascontiguousarray(weight, np.float32).reshape(-1), depth, columns, False, packed)
    return packed


class Stem:
    """3x3 convolution of the images, with bias and clip."""

    def __init__(self, model: MobileNetV1, low: float, high: float) -> None:
        weight = model.stem.layers["conv"].params["weight"].data
        scale, shift = _folded(model.stem.layers["bn"])
        self.config, self.low, self.high = model.config, np.float32(low), np.float32(high)
        self.taps, self.channels = weight.size // scale.size, scale.size
        self.packed, self.bias = _packed((weight * scale).reshape(self.taps, -1)), _padded_row(shift)

    def window(self, images: int, height: int, width: int) -> Window:
        return window_of(images, height, width, self.config.stem_stride, self.config.padding)

    def _shape(self, window: Window) -> ProductShape:
        return product_shape(window.images * window.out_h * window.out_w, self.taps, self.channels)

    def scratch(self, window: Window) -> int:
        """Floats of scratch memory a thread needs."""
        return self._shape(window).block * spread(self.taps) + line_floats(window.width, self.config.in_channels)

    def call(self, window: Window, y: Array, scratch: Array) -> Callable[[Array], None]:
        """What to call with a batch of images, flat."""
        shape, distance = self._shape(window), apart(self.channels)
        units, numbers, seen = shape.blocks * shape.groups_out, np.array(shape), np.array(window)

        def convolve(image: Array) -> None:
            product_inference(
                units, numbers, seen, image, NOTHING, 0, self.packed, self.bias, self.low, self.high, y, distance,
                scratch,
            )  # fmt: skip

        return convolve


class Depthwise:
    """Depthwise convolution with bias and clip."""

    def __init__(self, weight: Array, norm: Layer, stride: int, padding: str, low: float, high: float) -> None:
        """weight: (3, 3, C)."""
        scale, shift = _folded(norm)
        self.stride, self.padding, self.low, self.high = stride, padding, np.float32(low), np.float32(high)
        self.channels = scale.size
        self.filter, self.bias = packed_filter(weight * scale), _padded_row(shift)

    def window(self, images: int, height: int, width: int) -> Window:
        return window_of(images, height, width, self.stride, self.padding)

    def _share(self, window: Window) -> tuple[int, int]:
        """Rows of a band, and shares of the channels."""
        channels = padded(self.channels)
        band = equal_bands(window.out_h, BAND_FLOATS // (window.width * self.stride * channels))
        return band, shares_of_columns(window.images * -(-window.out_h // band), channels)

    def call(self, window: Window, x: Array, y: Array) -> Call:
        band, groups = self._share(window)
        units, distance = window.images * -(-window.out_h // band) * groups, apart(self.channels)
        return partial(
            depthwise_inference, np.array(window), x, distance, self.filter, self.bias,
            padded(self.channels), self.low, self.high, y, distance, units, band, groups,
        )  # fmt: skip


class Pointwise:
    """Pointwise convolution, or the classifier, with bias and clip."""

    def __init__(self, weight: Array, bias: Array, low: float, high: float) -> None:
        """weight: (Cin, Cout), bias: (Cout,)."""
        self.cin, self.channels = weight.shape
        self.low, self.high = np.float32(low), np.float32(high)
        self.packed, self.bias = _packed(weight), _padded_row(bias)

    def call(self, rows: int, x: Array, y: Array, scratch: Array) -> Call:
        shape = product_shape(rows, self.cin, self.channels)
        return partial(
            product_inference, shape.blocks * shape.groups_out, np.array(shape), np.array(NO_WINDOW), NOTHING, x,
            apart(self.cin), self.packed, self.bias, self.low, self.high, y, apart(self.channels), scratch,
        )  # fmt: skip


class Block:
    """A depthwise convolution and the pointwise one after it, in one kernel where that is worth it.

    Then the first one's output never leaves the cache, but a band's first and last rows of input are read twice, and
    the product's columns cannot be shared out. So it is done where the batch gives about CHUNKS bands, and a band's
    rows are nearly whole tiles of the product.
    """

    def __init__(self, depthwise: Depthwise, pointwise: Pointwise) -> None:
        self.depthwise, self.pointwise = depthwise, pointwise
        self.channels = pointwise.channels

    def window(self, images: int, height: int, width: int) -> Window:
        return self.depthwise.window(images, height, width)

    def _band(self, window: Window) -> int:
        """Rows of the output that one unit makes; 0 if the two convolutions are better done one by one."""
        for band in (7, 4, 2):  # the fewer bands, the fewer rows are read twice; 7 divides the maps of 224 pixels
            bands = -(-window.out_h // band)
            waste = whole_tiles(band * window.out_w) * bands / (window.out_w * window.out_h)
            if self._floats(window, band) <= FUSED_FLOATS and window.images * bands >= CHUNKS - 2 and waste < 1.05:
                return band
        return 0

    def fused(self, window: Window) -> bool:
        """Whether they are done in one kernel."""
        return self._band(window) > 0

    def _floats(self, window: Window, band: int) -> int:
        """Scratch memory of a unit: the last tile of the product, and what the depthwise convolution makes."""
        rows = whole_tiles(band * window.out_w) * spread(self.depthwise.channels)
        return TILE_ROWS * padded(self.channels) + rows

    def scratch(self, window: Window) -> int:
        band = self._band(window)
        return self._floats(window, band) if band else 0

    def calls(self, window: Window, x: Array, y: Array, scratch: Array) -> tuple[list[Call], Array, Array]:
        """What to call, where the result is then, x or y, and the other of the two."""
        first, second, band = self.depthwise, self.pointwise, self._band(window)
        if band == 0:
            rows = window.images * window.out_h * window.out_w
            return [first.call(window, x, y), second.call(rows, y, x, scratch)], x, y
        fused = partial(
            separable_inference, np.array(window), x, apart(first.channels), first.filter, first.bias,
            padded(first.channels), second.packed, second.bias, padded(second.channels), first.low, first.high, y,
            apart(second.channels), window.images * -(-window.out_h // band), band, second.cin, scratch,
        )  # fmt: skip
        return [fused], y, x


class Group(NamedTuple):
    """Some images of a batch: where they lie in it, flat, and the kernels of the first steps."""

    images: slice
    stem: Callable[[Array], None]
    calls: list[Call]


class Plan(NamedTuple):
    """The kernels to call for one shape of the batch, and where the logits are then."""

    groups: list[Group]
    calls: list[Call]
    logits: Array


class InferenceEngine:
    """Logits of a model in evaluation mode, for batches of any size.

    It folds the weights as they are now: when the model has changed, make a new one. Its calls share their memory, so
    several threads of a program need an engine each; and where Numba has neither OpenMP nor TBB, a lock, too.
    """

    def __init__(self, model: MobileNetV1) -> None:
        """Raises ConfigError unless the model's backend is "numba"."""
        if model.backend != "numba":
            raise ConfigError('the inference engine needs backend="numba"; use LayerEngine for backend="numpy"')
        self.model, config = model, model.config
        low, high = 0.0, 6.0 if config.activation == "relu6" else np.inf
        self._stem = Stem(model, low, high)
        self._blocks = []
        for block, (_, _, stride) in zip(model.blocks, config.blocks, strict=True):
            layers = block.layers
            weight = layers["depthwise"].params["weight"].data
            depthwise = Depthwise(weight, layers["depthwise_bn"], stride, config.padding, low, high)
            scale, shift = _folded(layers["pointwise_bn"])
            weight = layers["pointwise"].params["weight"].data * scale
            self._blocks.append(Block(depthwise, Pointwise(weight, shift, low, high)))
        self._steps: list[Stem | Block] = [self._stem, *self._blocks]
        params = model.classifier.params
        self._classifier = Pointwise(params["weight"].data, params["bias"].data, -np.inf, np.inf)
        self._near, self._buffers = [NOTHING, NOTHING], [NOTHING, NOTHING]
        self._scratch = np.empty((1, 0), np.float32)
        self._plans: dict[tuple[int, ...], Plan] = {}

    def __call__(self, x: Array) -> Array:
        """Logits (N, classes) of images x (N, H, W, in_channels) float32. Raises ConfigError on any other."""
        x = self.model.check_images(x)
        if x.shape not in self._plans:
            first_run.finish("inference")
            self._plans[x.shape] = self._plan(*x.shape[:3])
        plan = self._plans[x.shape]
        flat = np.ascontiguousarray(x).reshape(-1)
        for group in plan.groups:
            group.stem(flat[group.images])
            for call in group.calls:
                call()
        for call in plan.calls:
            call()
        return plan.logits.copy()

    def _plan(self, images: int, height: int, width: int) -> Plan:
        windows = []
        for step in self._steps:
            window = step.window(images, height, width)
            height, width = window.out_h, window.out_w
            windows.append(window)
        first, count = self._first_steps(windows)
        counts = [min(count, images - start) for start in range(0, images, count)]
        self._reserve(windows, first, counts)
        (y, other), scratch = self._buffers, self._scratch
        groups = [self._group(windows[:first], i * count, n, y) for i, n in enumerate(counts)]
        calls = []
        for block, window in zip(self._blocks[first - 1 :], windows[first:], strict=True):
            more, y, other = block.calls(window, y, other, scratch)
            calls += more
        channels, classes = self._classifier.cin, self._classifier.channels
        pool = partial(
            pool_forward, y, apart(channels), no_norm(channels), images, height * width, padded(channels),
            np.float32(-np.inf), np.float32(np.inf), other,
        )  # fmt: skip
        calls.append(pool)
        calls.append(self._classifier.call(images, other, y, scratch))
        return Plan(groups, calls, y[: images * apart(classes)].reshape(images, -1)[:, :classes])

    def _first_steps(self, windows: list[Window]) -> tuple[int, int]:
        """How many steps are done group by group, and for how many images at a time.

        They are the stem and the blocks after it in which a single image gives work enough for the fused kernel.
        """
        first, images, floats = 1, windows[0].images, 0
        for block, window in zip(self._blocks, windows[1:], strict=True):
            if not block.fused(window._replace(images=1)):
                break
            into, out = apart(block.depthwise.channels), apart(block.channels)
            floats = max(floats, window.height * window.width * into + window.out_h * window.out_w * out)
            first += 1
        count = max(GROUP_FLOATS // max(floats, 1), 1)
        return (1, images) if first == 1 or count >= images else (first, count)

    def _group(self, windows: list[Window], start: int, count: int, y: Array) -> Group:
        """The first steps for `count` images from the start-th on; their result goes to its place in y.

        The last of them can be told where to write: `_first_steps` takes only blocks that are one kernel.
        """
        pixels = windows[0].height * windows[0].width * self.model.config.in_channels  # of an image
        last, channels = windows[-1], self._steps[len(windows) - 1].channels
        result = y[start * last.out_h * last.out_w * apart(channels) :]
        x, other = self._near if len(windows) > 1 else (result, NOTHING)
        stem = self._stem.call(windows[0]._replace(images=count), x, self._scratch)
        calls: list[Call] = []
        for i, window in enumerate(windows[1:], 1):
            target = result if i == len(windows) - 1 else other
            more, x, other = self._blocks[i - 1].calls(window._replace(images=count), x, target, self._scratch)
            calls += more
        return Group(slice(start * pixels, (start + count) * pixels), stem, calls)

    def _reserve(self, windows: list[Window], first: int, counts: list[int]) -> None:
        """Make the buffers large enough for every activation. New buffers make the old plans void.

        first: steps that are done group by group; all but the last of them in buffers of their own.  counts: of images.
        """
        images = windows[0].images
        near, far, scratch = 0, (images + TILE_ROWS) * apart(self._classifier.channels), 0
        for i, (step, window) in enumerate(zip(self._steps, windows, strict=True)):
            pixels, distance = window.out_h * window.out_w, apart(step.channels)
            if i < first - 1:
                near = max(near, (max(counts) * pixels + TILE_ROWS) * distance)
            else:
                far = max(far, (images * pixels + TILE_ROWS) * distance)
            for n in set(counts) if i < first else {images}:
                scratch = max(scratch, step.scratch(window._replace(images=n)))
        if near > self._near[0].size or far > self._buffers[0].size or scratch > self._scratch.shape[1]:
            self._plans.clear()
            self._near = [aligned(max(near, self._near[0].size)) for _ in range(2)]
            self._buffers = [aligned(max(far, self._buffers[0].size)) for _ in range(2)]
            self._scratch = scratch_memory(max(scratch, self._scratch.shape[1]))
