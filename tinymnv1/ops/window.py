"""Where a sliding window goes: output size, padding, and the strided slice that one tap of the kernel sees.

A K x K kernel has K * K taps. Tap (i, j) meets, over all output positions, a regularly spaced grid of the
padded input: rows i, i + stride, i + 2 * stride, ... That grid is a NumPy view, so a convolution becomes a
loop over taps instead of a loop over pixels.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tinymnv1.errors import ConfigError

Array = NDArray[Any]
Padding = Literal["symmetric", "tf"]


def span(size: int, kernel: int, stride: int, padding: str) -> tuple[int, int, int]:
    """Output size of a window along one axis, and the zeros it needs in front and behind.

    size, kernel, stride: in pixels, each at least 1.
    padding:
        "symmetric": (kernel - 1) // 2 on both sides, as PyTorch's `padding=1` for a 3x3.
        "tf": TensorFlow's SAME: the output has ceil(size / stride) pixels and the zeros that this takes are
        shared out with the odd one behind, so a 3x3 at stride 2 pads an even size by (0, 1) and an odd one by (1, 1).
    Returns (output size, zeros before, zeros after). Raises ConfigError where no window fits.
    """
    if stride < 1 or kernel < 1 or size < 1:
        raise ConfigError(f"size, kernel and stride must be at least 1, got {size}, {kernel} and {stride}")
    if padding == "symmetric":
        before = after = (kernel - 1) // 2
        out = (size + before + after - kernel) // stride + 1
    elif padding == "tf":
        out = -(-size // stride)
        total = max((out - 1) * stride + kernel - size, 0)
        before, after = total // 2, total - total // 2
    else:
        raise ConfigError(f'padding must be "symmetric" or "tf", got {padding!r}')
    if out < 1:
        raise ConfigError(f"a window of {kernel} does not fit into {size} pixels padded by {before} on each side")
    return out, before, after


def pad(x: Array, pad_h: tuple[int, int], pad_w: tuple[int, int]) -> Array:
    """A copy of x (N, H, W, C) with zeros around each image: (before, after) rows and columns."""
    return np.pad(x, ((0, 0), pad_h, pad_w, (0, 0)))


def tap(xp: Array, i: int, j: int, stride: int, out_h: int, out_w: int) -> Array:
    """The view of xp (N, Hp, Wp, C) that tap (i, j) meets: (N, out_h, out_w, C)."""
    return xp[:, i : i + stride * (out_h - 1) + 1 : stride, j : j + stride * (out_w - 1) + 1 : stride, :]


def crop(xp: Array, before_h: int, before_w: int, height: int, width: int) -> Array:
    """Undo `pad`: a contiguous copy of the (N, height, width, C) part inside the zeros."""
    return np.ascontiguousarray(xp[:, before_h : before_h + height, before_w : before_w + width, :])


def require_images(x: Array, op: str) -> None:
    """Raise ConfigError unless x is (N, H, W, C), float32 or float64, with at least one value."""
    if x.ndim != 4 or x.size == 0:
        raise ConfigError(f"{op}: x must be (N, H, W, C) and not empty, got shape {x.shape}")
    if x.dtype not in (np.float32, np.float64):
        raise ConfigError(f"{op}: x must be float32 or float64, got {x.dtype}; normalise the images first")


def require_gradient(dy: Array, shape: tuple[int, ...], op: str) -> None:
    """Raise ConfigError unless dy has the shape of the op's output: NumPy would broadcast, a kernel read beyond it."""
    if dy.shape != shape:
        raise ConfigError(f"{op}: dy must be {shape}, got {dy.shape}")
