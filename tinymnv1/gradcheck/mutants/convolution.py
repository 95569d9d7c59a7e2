"""Mutants of conv2d and depthwise: where the windows start, how far apart they lie, what a tap does."""

from typing import Any

import numpy as np

from tinymnv1 import ops
from tinymnv1.gradcheck.mutants.catalogue import Functions, mutant
from tinymnv1.ops.window import Array, crop, pad, span, tap


def _geometry(dy: Array, cache: Any) -> tuple[Array, Array, int, list[int], list[int]]:
    """x padded, dxp full of zeros, the stride, and the padding (before, after) of the rows and of the columns."""
    x, w, stride, padding = cache
    _, *pad_h = span(x.shape[1], w.shape[0], stride, padding)
    _, *pad_w = span(x.shape[2], w.shape[1], stride, padding)
    xp = pad(x, (pad_h[0], pad_h[1]), (pad_w[0], pad_w[1]))
    return xp, np.zeros_like(xp), stride, pad_h, pad_w


@mutant("depthwise", "kernel flipped")
def depthwise_true_convolution() -> Functions:
    """Forward turns the kernel round, as a convolution in mathematics does; backward fits it."""

    def depthwise_forward(x: Array, w: Array, stride: int = 1, padding: str = "symmetric") -> Any:
        return ops.depthwise_forward(x, w[::-1, ::-1], stride, padding)

    def depthwise_backward(dy: Array, cache: Any) -> Any:
        dx, dw = ops.depthwise_backward(dy, cache)
        return dx, dw[::-1, ::-1].copy()

    return {"depthwise_forward": depthwise_forward, "depthwise_backward": depthwise_backward}


@mutant("depthwise", "kernel flipped")
def depthwise_dx_flipped() -> Functions:
    """dx is taken for a convolution with the kernel turned round once too often."""

    def depthwise_backward(dy: Array, cache: Any) -> Any:
        x, w, stride, padding = cache
        _, dw = ops.depthwise_backward(dy, cache)
        dx, _ = ops.depthwise_backward(dy, (x, w[::-1, ::-1], stride, padding))
        return dx, dw

    return {"depthwise_backward": depthwise_backward}


@mutant("depthwise", "stride forgotten")
def depthwise_dx_stride() -> Functions:
    """dx is written to neighbouring pixels: the stride was used in forward and forgotten in dx."""

    def depthwise_backward(dy: Array, cache: Any) -> Any:
        x, w, *_ = cache
        _, dxp, _, (top, _), (left, _) = _geometry(dy, cache)
        for i, j in np.ndindex(*w.shape[:2]):
            dxp[:, i : i + dy.shape[1], j : j + dy.shape[2]] += dy * w[i, j]
        return crop(dxp, top, left, *x.shape[1:3]), ops.depthwise_backward(dy, cache)[1]

    return {"depthwise_backward": depthwise_backward}


@mutant("depthwise", "stride forgotten")
def depthwise_dw_stride() -> Functions:
    """dw reads neighbouring pixels: the stride was forgotten there."""

    def depthwise_backward(dy: Array, cache: Any) -> Any:
        w = cache[1]
        xp, *_ = _geometry(dy, cache)
        dw = np.zeros_like(w)
        for i, j in np.ndindex(*w.shape[:2]):
            dw[i, j] = (xp[:, i : i + dy.shape[1], j : j + dy.shape[2]] * dy).sum(axis=(0, 1, 2))
        return ops.depthwise_backward(dy, cache)[0], dw

    return {"depthwise_backward": depthwise_backward}


@mutant("depthwise", "overwritten instead of added")
def depthwise_dx_assigned() -> Functions:
    """dx is set (=) by each tap, so that the last one wins where several met the same pixel."""

    def depthwise_backward(dy: Array, cache: Any) -> Any:
        x, w, *_ = cache
        _, dxp, stride, (top, _), (left, _) = _geometry(dy, cache)
        for i, j in np.ndindex(*w.shape[:2]):
            tap(dxp, i, j, stride, *dy.shape[1:3])[...] = dy * w[i, j]
        return crop(dxp, top, left, *x.shape[1:3]), ops.depthwise_backward(dy, cache)[1]

    return {"depthwise_backward": depthwise_backward}


@mutant("depthwise", "padding not cropped")
def depthwise_dx_cropped_at_zero() -> Functions:
    """The padded dx is cut to H x W from its first pixel, not from the first pixel inside the padding."""

    def depthwise_backward(dy: Array, cache: Any) -> Any:
        x, w, *_ = cache
        _, dxp, stride, _, _ = _geometry(dy, cache)
        for i, j in np.ndindex(*w.shape[:2]):
            grid = tap(dxp, i, j, stride, *dy.shape[1:3])
            grid += dy * w[i, j]
        return crop(dxp, 0, 0, *x.shape[1:3]), ops.depthwise_backward(dy, cache)[1]

    return {"depthwise_backward": depthwise_backward}


@mutant("depthwise", "padding mode ignored")
def depthwise_padding_ignored() -> Functions:
    """padding="tf" is accepted and not used: everything is padded symmetrically."""

    def depthwise_forward(x: Array, w: Array, stride: int = 1, padding: str = "symmetric") -> Any:
        return ops.depthwise_forward(x, w, stride)

    return {"depthwise_forward": depthwise_forward}


@mutant("depthwise", "only one image")
def depthwise_dw_one_image() -> Functions:
    """dw is set anew for each image of the batch: only the last one counts."""

    def depthwise_backward(dy: Array, cache: Any) -> Any:
        x, w, stride, padding = cache
        dx, dw = ops.depthwise_backward(dy, cache)
        for n in range(len(x)):
            dw = ops.depthwise_backward(dy[n : n + 1], (x[n : n + 1], w, stride, padding))[1]
        return dx, dw

    return {"depthwise_backward": depthwise_backward}


@mutant("depthwise", "accumulated instead of set")
def depthwise_dw_accumulated() -> Functions:
    """dw lives in an array that is never cleared: each call adds to the one before."""
    kept: dict[tuple[int, ...], Array] = {}

    def depthwise_backward(dy: Array, cache: Any) -> Any:
        dx, dw = ops.depthwise_backward(dy, cache)
        total = kept.setdefault(dw.shape, np.zeros_like(dw))
        if total.dtype != dw.dtype:
            total = kept[dw.shape] = np.zeros_like(dw)
        total += dw
        return dx, total.copy()

    return {"depthwise_backward": depthwise_backward}


@mutant("conv2d", "kernel transposed")
def conv2d_kernel_transposed() -> Functions:
    """dw is filled as dw[j, i]: rows and columns of the kernel change places. 3x3 hides it from every shape check."""

    def conv2d_backward(dy: Array, cache: Any) -> Any:
        dx, dw = ops.conv2d_backward(dy, cache)
        square = dw.shape[0] == dw.shape[1]
        return dx, dw.swapaxes(0, 1).copy() if square else dw

    return {"conv2d_backward": conv2d_backward}


@mutant("conv2d", "padding off by one")
def conv2d_tf_padding_in_front() -> Functions:
    """The odd row of TensorFlow's padding is put in front instead of behind."""

    def moved(x: Array, w: Array, stride: int, padding: str) -> tuple[Array, int, int]:
        _, top, bottom = span(x.shape[1], w.shape[0], stride, padding)
        _, left, right = span(x.shape[2], w.shape[1], stride, padding)
        return pad(x, (bottom, top), (right, left)), bottom, right

    def conv2d_forward(x: Array, w: Array, stride: int = 1, padding: str = "symmetric") -> Any:
        y, _ = ops.conv2d_forward(x, w, stride, padding)
        xp, _, _ = moved(x, w, stride, padding)
        out = np.zeros_like(y)
        for i, j in np.ndindex(*w.shape[:2]):
            out += tap(xp, i, j, stride, *y.shape[1:3]) @ w[i, j]
        return out, (x, w, stride, padding)

    return {"conv2d_forward": conv2d_forward}


@mutant("conv2d", "padding not cropped")
def conv2d_dx_with_padding() -> Functions:
    """dx is returned with the rows and columns of the padding still around it."""

    def conv2d_backward(dy: Array, cache: Any) -> Any:
        w = cache[1]
        _, dxp, stride, _, _ = _geometry(dy, cache)
        for i, j in np.ndindex(*w.shape[:2]):
            grid = tap(dxp, i, j, stride, *dy.shape[1:3])
            grid += dy @ w[i, j].T
        return dxp, ops.conv2d_backward(dy, cache)[1]

    return {"conv2d_backward": conv2d_backward}


@mutant("conv2d", "divided by the batch")
def conv2d_dw_averaged() -> Functions:
    """dw is averaged over the images, though the loss has already done that."""

    def conv2d_backward(dy: Array, cache: Any) -> Any:
        dx, dw = ops.conv2d_backward(dy, cache)
        return dx, dw / dw.dtype.type(len(dy))

    return {"conv2d_backward": conv2d_backward}
