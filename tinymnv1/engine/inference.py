"""The inference engine: batch norm folded into the convolutions, weights packed once, one arena.

In evaluation batch norm is  y = scale z + shift  with  scale = gamma / sqrt(running_var + eps)  and
shift = beta - running_mean scale.  z is linear in the weights, so  scale w  in place of w and a bias of  shift  give y
at once; the clip follows in the register in which y was summed up.

Activations live in two buffers that take turns: each convolution reads one and writes the other.
"""

import numpy as np

from tinymnv1.engine.shares import NO_WINDOW, NOTHING, equal_bands, product_shape, window_of
from tinymnv1.errors import ConfigError
from tinymnv1.kernels.blocks import Window, pack, padded, spread, whole_tiles
from tinymnv1.kernels.compile import CHUNKS, aligned, scratch_memory
from tinymnv1.kernels.fused_pointwise import ProductShape
from tinymnv1.kernels.gather import line_floats
from tinymnv1.kernels.inference import depthwise_inference, pool_inference, product_inference
from tinymnv1.kernels.simd import LANES, TILE_ROWS
from tinymnv1.layers import BatchNorm, Layer
from tinymnv1.model import KERNEL, MobileNetV1
from tinymnv1.ops.window import Array

BAND_FLOATS = 1 << 15


def apart(channels: int) -> int:
    """The distance of an activation's rows: `padded`, or `spread` where a few rows would fill a first-level set."""
    return padded(channels) if channels < 256 else spread(channels)


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
    pack(np.ascontiguousarray(weight, np.float32).reshape(-1), depth, columns, packed)
    return packed


class Stem:
    """3x3 convolution of the images, with bias and clip."""

    def __init__(self, model: MobileNetV1, low: float, high: float) -> None:
        weight = model.stem.layers["conv"].params["weight"].data
        scale, shift = _folded(model.stem.layers["bn"])
        self.config, self.low, self.high = model.config, np.float32(low), np.float32(high)
        self.taps, self.channels = weight.size // scale.size, scale.size
        self.packed, self.bias = _packed((weight * scale).reshape(self.taps, -1)), _padded_row(shift)

    def _window(self, images: int, height: int, width: int) -> Window:
        return window_of(images, height, width, self.config.stem_stride, self.config.padding)

    def _shape(self, window: Window) -> ProductShape:
        return product_shape(window.images * window.out_h * window.out_w, self.taps, self.channels, split_in=False)

    def sizes(self, images: int, height: int, width: int) -> tuple[int, int, int]:
        """Output height and width, and floats of scratch memory a thread."""
        window = self._window(images, height, width)
        line = line_floats(width, self.config.in_channels)
        return window.out_h, window.out_w, self._shape(window).block * spread(self.taps) + line

    def __call__(self, x: Array, y: Array, images: int, height: int, width: int, scratch: Array) -> None:
        window = self._window(images, height, width)
        product_inference(
            self._shape(window), window, x, NOTHING, 0, self.packed, self.bias, self.low, self.high, y,
            apart(self.channels), scratch,
        )  # fmt: skip


class Depthwise:
    """Depthwise convolution with bias and clip."""

    def __init__(self, weight: Array, norm: Layer, stride: int, padding: str, low: float, high: float) -> None:
        """weight: (3, 3, C)."""
        scale, shift = _folded(norm)
        self.stride, self.padding, self.low, self.high = stride, padding, np.float32(low), np.float32(high)
        self.channels = scale.size
        self.weight = np.zeros((KERNEL * KERNEL, padded(self.channels)), np.float32)
        self.weight[:, : self.channels] = (weight * scale).reshape(KERNEL * KERNEL, -1)
        self.bias = _padded_row(shift)

    def _share(self, window: Window) -> tuple[int, int, int]:
        """Rows of a band, shares of the channels, and floats of scratch memory a thread."""
        vectors, columns = padded(self.channels) // LANES, (window.out_w - 1) * self.stride + KERNEL
        rows = BAND_FLOATS // (columns * vectors * LANES)
        band = equal_bands(window.out_h, (rows - KERNEL) // self.stride + 1)
        groups = min(max(CHUNKS // (window.images * -(-window.out_h // band)), 1), vectors)
        return band, groups, ((band - 1) * self.stride + KERNEL) * columns * -(-vectors // groups) * LANES

    def sizes(self, images: int, height: int, width: int) -> tuple[int, int, int]:
        window = window_of(images, height, width, self.stride, self.padding)
        return window.out_h, window.out_w, self._share(window)[2]

    def __call__(self, x: Array, y: Array, images: int, height: int, width: int, scratch: Array) -> None:
        window = window_of(images, height, width, self.stride, self.padding)
        band, groups, _ = self._share(window)
        units, distance = images * -(-window.out_h // band) * groups, apart(self.channels)
        depthwise_inference(
            window, x, distance, self.weight.reshape(-1), self.bias, padded(self.channels), self.low, self.high, y,
            distance, units, band, groups, scratch,
        )  # fmt: skip


class Pointwise:
    """Pointwise convolution, or the classifier, with bias and clip."""

    def __init__(self, weight: Array, bias: Array, low: float, high: float) -> None:
        """weight: (Cin, Cout), bias: (Cout,)."""
        self.cin, self.channels = weight.shape
        self.low, self.high = np.float32(low), np.float32(high)
        self.packed, self.bias = _packed(weight), _padded_row(bias)

    def sizes(self, images: int, height: int, width: int) -> tuple[int, int, int]:
        return height, width, 0

    def __call__(self, x: Array, y: Array, images: int, height: int, width: int, scratch: Array) -> None:
        shape = product_shape(images * height * width, self.cin, self.channels, split_in=False)
        product_inference(
            shape, NO_WINDOW, NOTHING, x, apart(self.cin), self.packed, self.bias, self.low, self.high, y,
            apart(self.channels), scratch,
        )  # fmt: skip


class InferenceEngine:
    """Logits of a model in evaluation mode, for batches of any size.

    It folds the weights as they are now: when the model has changed, make a new one.
    """

    def __init__(self, model: MobileNetV1) -> None:
        """Raises ConfigError unless the model's backend is "numba"."""
        if model.backend != "numba":
            raise ConfigError('the inference engine needs backend="numba"; use LayerEngine for backend="numpy"')
        self.model = model
        self._buffers = [np.empty(0, np.float32)] * 2
        self._scratch = np.empty((0, 0), np.float32)
        config = model.config
        low, high = 0.0, 6.0 if config.activation == "relu6" else np.inf
        self._steps: list[Stem | Depthwise | Pointwise] = [Stem(model, low, high)]
        for block, (_, _, stride) in zip(model.blocks, config.blocks, strict=True):
            layers = block.layers
            weight = layers["depthwise"].params["weight"].data
            self._steps.append(Depthwise(weight, layers["depthwise_bn"], stride, config.padding, low, high))
            scale, shift = _folded(layers["pointwise_bn"])
            self._steps.append(Pointwise(layers["pointwise"].params["weight"].data * scale, shift, low, high))
        params = model.classifier.params
        self._classifier = Pointwise(params["weight"].data, params["bias"].data, -np.inf, np.inf)

    def __call__(self, x: Array) -> Array:
        """Logits (N, classes) of images x (N, H, W, in_channels) float32. Raises ConfigError on another shape."""
        x = self.model.check_images(x)
        images, height, width, _ = x.shape
        self._reserve(images, height, width)
        y, other = self._buffers
        source = np.ascontiguousarray(x).reshape(-1)
        for step in self._steps:
            step(source, y, images, height, width, self._scratch)
            height, width, _ = step.sizes(images, height, width)
            source, y, other = y, other, y
        channels = self._classifier.cin
        pool_inference(source, apart(channels), images, height * width, padded(channels), y, apart(channels))
        self._classifier(y, other, images, 1, 1, self._scratch)
        classes = self._classifier.channels
        return other[: images * apart(classes)].reshape(images, -1)[:, :classes].copy()

    def _reserve(self, images: int, height: int, width: int) -> None:
        """Make the buffers large enough for every activation of this shape."""
        floats, scratch = (whole_tiles(images) + TILE_ROWS) * apart(self._classifier.channels), 0
        for step in self._steps:
            height, width, needed = step.sizes(images, height, width)
            floats = max(floats, (images * height * width + TILE_ROWS) * apart(step.channels))
            scratch = max(scratch, needed)
        if floats > self._buffers[0].size:
            self._buffers = [aligned(floats), aligned(floats)]
        if scratch > self._scratch.shape[1]:
            self._scratch = scratch_memory(-(-scratch // LANES) * LANES)
