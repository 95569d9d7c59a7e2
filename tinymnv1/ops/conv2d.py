"""The ordinary convolution: MobileNetV1's stem, and the op that the depthwise separable one replaces.

    y[n, h, w, o] = sum over i, j, c of  xp[n, h * s + i, w * s + j, c] * weight[i, j, c, o]

xp is x with zeros around it and s the stride. (As everywhere in deep learning, this is a cross-correlation:
the kernel is not flipped.)
"""

import numpy as np

from tinymnv1.errors import ConfigError
from tinymnv1.ops.window import Array, crop, pad, require_gradient, require_images, span, tap

Cache = tuple[Array, Array, int, str]


def check_conv2d(x: Array, w: Array) -> None:
    """Raise ConfigError unless x is (N, H, W, Cin) and w is (KH, KW, Cin, Cout), and not empty."""
    require_images(x, "conv2d")
    if w.ndim != 4 or w.shape[2] != x.shape[3] or w.size == 0:
        raise ConfigError(
            f"conv2d: w must be (KH, KW, {x.shape[3]}, Cout) and not empty for x {x.shape}, got {w.shape}"
        )


def conv2d_forward(x: Array, w: Array, stride: int = 1, padding: str = "symmetric") -> tuple[Array, Cache]:
    """Convolve a batch of images.

    x: (N, H, W, Cin), float32 or float64.  w: (KH, KW, Cin, Cout), same dtype.
    stride: pixels, the same along both axes.  padding: "symmetric" or "tf", see `window.span`.
    Returns y: (N, OH, OW, Cout), and the cache for `conv2d_backward`. Raises ConfigError on shapes that do not fit.

    One tap at a time: tap (i, j) multiplies the (N, OH, OW, Cin) grid it meets by its own Cin x Cout matrix.
    """
    check_conv2d(x, w)
    kh, kw, _, cout = w.shape
    out_h, *pad_h = span(x.shape[1], kh, stride, padding)
    out_w, *pad_w = span(x.shape[2], kw, stride, padding)
    xp = pad(x, (pad_h[0], pad_h[1]), (pad_w[0], pad_w[1]))  # (N, Hp, Wp, Cin)
    y = np.zeros((x.shape[0], out_h, out_w, cout), x.dtype)
    for i in range(kh):
        for j in range(kw):
            y += tap(xp, i, j, stride, out_h, out_w) @ w[i, j]
    return y, (x, w, stride, padding)


def conv2d_backward(dy: Array, cache: Cache) -> tuple[Array, Array]:
    """Gradients of a loss L with respect to x and w, given dy = dL/dy.

    dy: (N, OH, OW, Cout).  Returns dx: (N, H, W, Cin), dw: (KH, KW, Cin, Cout).

    Derivation. Fix a tap (i, j) and call T the grid of xp that it meets, as a matrix of N*OH*OW rows and Cin
    columns. The tap adds  T @ w[i, j]  to y. For a product Y = T @ W, dL/dT = dY @ W.T and dL/dW = T.T @ dY, so

        dw[i, j] = T.T @ dy               each weight: the input it met, times the gradient it caused, summed
        dT       = dy @ w[i, j].T         each input: the gradients it reached, through the weights it took

    A pixel of xp is met by several taps (up to KH * KW of them at stride 1): its gradient is the sum, hence the
    `+=` into the same places that the tap read. The zeros of the padding are constants, so their gradient is
    cut off at the end.
    """
    x, w, stride, padding = cache
    _, height, width, cin = x.shape
    kh, kw, _, cout = w.shape
    out_h, *pad_h = span(height, kh, stride, padding)
    out_w, *pad_w = span(width, kw, stride, padding)
    require_gradient(dy, (len(x), out_h, out_w, cout), "conv2d")
    xp = pad(x, (pad_h[0], pad_h[1]), (pad_w[0], pad_w[1]))
    dxp = np.zeros_like(xp)
    dw = np.empty_like(w)
    dy_rows = dy.reshape(-1, cout)  # (N*OH*OW, Cout)
    for i in range(kh):
        for j in range(kw):
            dw[i, j] = tap(xp, i, j, stride, out_h, out_w).reshape(-1, cin).T @ dy_rows
            dxp_tap = tap(dxp, i, j, stride, out_h, out_w)
            dxp_tap += dy @ w[i, j].T
    return crop(dxp, pad_h[0], pad_w[0], height, width), dw


def conv2d_forward_naive(x: Array, w: Array, stride: int = 1, padding: str = "symmetric") -> tuple[Array, Cache]:
    """`conv2d_forward` as seven nested loops: exactly the formula at the top of this file. To read, not to run fast."""
    check_conv2d(x, w)
    n_images, height, width, cin = x.shape
    kh, kw, _, cout = w.shape
    out_h, top, _ = span(height, kh, stride, padding)
    out_w, left, _ = span(width, kw, stride, padding)
    y = np.zeros((n_images, out_h, out_w, cout), x.dtype)
    for n in range(n_images):
        for oh in range(out_h):
            for ow in range(out_w):
                for o in range(cout):
                    for i in range(kh):
                        for j in range(kw):
                            h, v = oh * stride + i - top, ow * stride + j - left
                            if 0 <= h < height and 0 <= v < width:  # outside, the padding is zero
                                for c in range(cin):
                                    y[n, oh, ow, o] += x[n, h, v, c] * w[i, j, c, o]
    return y, (x, w, stride, padding)


def conv2d_backward_naive(dy: Array, cache: Cache) -> tuple[Array, Array]:
    """`conv2d_backward` as the same seven loops.

    The forward pass does one product at a time, y += x * w. The product's derivative with respect to x is w, and with
    respect to w it is x; each is multiplied by the dy of the output that the product was added to.
    """
    x, w, stride, padding = cache
    n_images, height, width, cin = x.shape
    kh, kw, _, cout = w.shape
    out_h, top, _ = span(height, kh, stride, padding)
    out_w, left, _ = span(width, kw, stride, padding)
    require_gradient(dy, (n_images, out_h, out_w, cout), "conv2d")
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    for n in range(n_images):
        for oh in range(out_h):
            for ow in range(out_w):
                for o in range(cout):
                    for i in range(kh):
                        for j in range(kw):
                            h, v = oh * stride + i - top, ow * stride + j - left
                            if 0 <= h < height and 0 <= v < width:
                                for c in range(cin):
                                    dx[n, h, v, c] += w[i, j, c, o] * dy[n, oh, ow, o]
                                    dw[i, j, c, o] += x[n, h, v, c] * dy[n, oh, ow, o]
    return dx, dw
