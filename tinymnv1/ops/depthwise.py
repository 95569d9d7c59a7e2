"""The depthwise convolution: one small filter per channel, channels never mix (arXiv 1704.04861, equation 3).

    y[n, h, w, c] = sum over i, j of  xp[n, h * s + i, w * s + j, c] * weight[i, j, c]

xp is x with zeros around it and s the stride. It costs K * K * C multiply-adds a pixel, where the ordinary
convolution costs K * K * C * Cout; the pointwise convolution after it does the mixing.
"""

import numpy as np

from tinymnv1.errors import ConfigError
from tinymnv1.ops.window import Array, crop, pad, require_gradient, require_images, span, tap

Cache = tuple[Array, Array, int, str]


def check_depthwise(x: Array, w: Array) -> None:
    """Raise ConfigError unless x is (N, H, W, C) and w is (KH, KW, C) with the same C."""
    require_images(x, "depthwise")
    if w.ndim != 3 or w.shape[2] != x.shape[3]:
        raise ConfigError(f"depthwise: w must be (KH, KW, {x.shape[3]}) for x {x.shape}, got {w.shape}")


def depthwise_forward(x: Array, w: Array, stride: int = 1, padding: str = "symmetric") -> tuple[Array, Cache]:
    """Filter every channel with its own kernel.

    x: (N, H, W, C), float32 or float64.  w: (KH, KW, C), same dtype.
    stride: pixels, the same along both axes.  padding: "symmetric" or "tf", see `window.span`.
    Returns y: (N, OH, OW, C), and the cache for `depthwise_backward`. Raises ConfigError on shapes that do not fit.
    """
    check_depthwise(x, w)
    kh, kw, channels = w.shape
    out_h, *pad_h = span(x.shape[1], kh, stride, padding)
    out_w, *pad_w = span(x.shape[2], kw, stride, padding)
    xp = pad(x, (pad_h[0], pad_h[1]), (pad_w[0], pad_w[1]))  # (N, Hp, Wp, C)
    y = np.zeros((x.shape[0], out_h, out_w, channels), x.dtype)
    for i in range(kh):
        for j in range(kw):
            y += tap(xp, i, j, stride, out_h, out_w) * w[i, j]  # (N, OH, OW, C) * (C,)
    return y, (x, w, stride, padding)


def depthwise_backward(dy: Array, cache: Cache) -> tuple[Array, Array]:
    """Gradients of a loss L with respect to x and w, given dy = dL/dy.

    dy: (N, OH, OW, C).  Returns dx: (N, H, W, C), dw: (KH, KW, C).

    Derivation. Tap (i, j) adds  T * w[i, j]  to y, channel by channel, where T is the grid of xp that it meets.
    The product rule gives, for that tap,

        dT       = dy * w[i, j]                      and each pixel sums this over the taps that met it
        dw[i, j] = sum over n, oh, ow of  T * dy     the filter is shared by all positions, so it collects from all

    With a stride of 2 the taps land on every second pixel only. `tap` gives the same strided view for reading xp
    and for adding into dxp, so the gradient goes back exactly where the value came from.
    """
    x, w, stride, padding = cache
    _, height, width, channels = x.shape
    kh, kw, _ = w.shape
    out_h, *pad_h = span(height, kh, stride, padding)
    out_w, *pad_w = span(width, kw, stride, padding)
    require_gradient(dy, (len(x), out_h, out_w, channels), "depthwise")
    xp = pad(x, (pad_h[0], pad_h[1]), (pad_w[0], pad_w[1]))
    dxp = np.zeros_like(xp)
    dw = np.empty_like(w)
    for i in range(kh):
        for j in range(kw):
            rows = np.einsum("nhwc,nhwc->nhc", tap(xp, i, j, stride, out_h, out_w), dy)
            dw[i, j] = rows.sum(axis=(0, 1), dtype=np.float64)  # in float32 so long a sum would lose digits
            dxp_tap = tap(dxp, i, j, stride, out_h, out_w)
            dxp_tap += dy * w[i, j]
    return crop(dxp, pad_h[0], pad_w[0], height, width), dw


def depthwise_forward_naive(x: Array, w: Array, stride: int = 1, padding: str = "symmetric") -> tuple[Array, Cache]:
    """`depthwise_forward` as six nested loops: exactly the formula at the top of this file."""
    check_depthwise(x, w)
    n_images, height, width, channels = x.shape
    kh, kw, _ = w.shape
    out_h, top, _ = span(height, kh, stride, padding)
    out_w, left, _ = span(width, kw, stride, padding)
    y = np.zeros((n_images, out_h, out_w, channels), x.dtype)
    for n in range(n_images):
        for oh in range(out_h):
            for ow in range(out_w):
                for i in range(kh):
                    for j in range(kw):
                        h, v = oh * stride + i - top, ow * stride + j - left
                        if 0 <= h < height and 0 <= v < width:  # outside, the padding is zero
                            for c in range(channels):
                                y[n, oh, ow, c] += x[n, h, v, c] * w[i, j, c]
    return y, (x, w, stride, padding)


def depthwise_backward_naive(dy: Array, cache: Cache) -> tuple[Array, Array]:
    """`depthwise_backward` as the same six loops: each product y += x * w hands dy to both of its factors."""
    x, w, stride, padding = cache
    n_images, height, width, channels = x.shape
    kh, kw, _ = w.shape
    out_h, top, _ = span(height, kh, stride, padding)
    out_w, left, _ = span(width, kw, stride, padding)
    require_gradient(dy, (n_images, out_h, out_w, channels), "depthwise")
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    for n in range(n_images):
        for oh in range(out_h):
            for ow in range(out_w):
                for i in range(kh):
                    for j in range(kw):
                        h, v = oh * stride + i - top, ow * stride + j - left
                        if 0 <= h < height and 0 <= v < width:
                            for c in range(channels):
                                dx[n, h, v, c] += w[i, j, c] * dy[n, oh, ow, c]
                                dw[i, j, c] += x[n, h, v, c] * dy[n, oh, ow, c]
    return dx, dw
