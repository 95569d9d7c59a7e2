"""Plausible wrong answers to the exercises of 02_depthwise_separable: each must fail its check."""

WRONG = {
    "depthwise_forward": [
        """
import numpy as np

from tinymnv1.ops.window import span


def depthwise_forward(x, w, stride=1, padding="symmetric"):
    kh, kw, channels = w.shape
    out_h, top, bottom = span(x.shape[1], kh, stride, padding)
    out_w, left, right = span(x.shape[2], kw, stride, padding)
    xp = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    y = np.zeros((x.shape[0], out_h, out_w, channels), x.dtype)
    for i in range(kh):
        for j in range(kw):
            y += xp[:, i : i + stride * out_h : stride, j : j + stride * out_w : stride] * w[i, j].sum()
    return y, None
""",
        """
import numpy as np

from tinymnv1.ops.window import span


def depthwise_forward(x, w, stride=1, padding="symmetric"):
    kh, kw, channels = w.shape
    out_h, top, bottom = span(x.shape[1], kh, 1, padding)
    out_w, left, right = span(x.shape[2], kw, 1, padding)
    xp = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    y = np.zeros((x.shape[0], out_h, out_w, channels), x.dtype)
    for i in range(kh):
        for j in range(kw):
            y += xp[:, i : i + out_h, j : j + out_w] * w[i, j]
    return y[:, ::stride, ::stride], None
""",
    ],
    "ratio": [
        """
def times_cheaper(kernel, outputs):
    return 1 / outputs + 1 / kernel**2


outputs_for_six_times = 18
""",
        """
def times_cheaper(kernel, outputs):
    return 1 / (1 / outputs + 1 / kernel)


outputs_for_six_times = 9
""",
    ],
    "full_weight": [
        """
import numpy as np


def full_weight(d, p):
    return d @ p
""",
        """
import numpy as np


def full_weight(d, p):
    return d[..., None] + p
""",
    ],
    "pointwise": [
        """
import numpy as np


def pointwise_forward(x, w):
    return x @ w, (x, w)


def pointwise_backward(dy, cache):
    x, w = cache
    cin, cout = w.shape
    return dy @ w.T, x.reshape(-1, cin).T @ dy.reshape(-1, cout) / len(x)
""",
        """
import numpy as np


def pointwise_forward(x, w):
    return x @ w, (x, w)


def pointwise_backward(dy, cache):
    x, w = cache
    cin, cout = w.shape
    return dy @ w.T, (dy.reshape(-1, cout).T @ x.reshape(-1, cin)).reshape(cin, cout)
""",
    ],
    "depthwise_backward": [
        """
import numpy as np

from tinymnv1.ops import depthwise_forward
from tinymnv1.ops.window import span


def depthwise_backward(dy, cache):
    x, w, stride, padding = cache
    kh, kw, _ = w.shape
    out_h, top, bottom = span(x.shape[1], kh, stride, padding)
    out_w, left, right = span(x.shape[2], kw, stride, padding)
    xp = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    dxp, dw = np.zeros_like(xp), np.zeros_like(w)
    for i in range(kh):
        for j in range(kw):
            met = (slice(None), slice(i, i + stride * out_h, stride), slice(j, j + stride * out_w, stride))
            dxp[met] = dy * w[i, j]
            dw[i, j] = (xp[met] * dy).sum(axis=(0, 1, 2))
    return dxp[:, top : top + x.shape[1], left : left + x.shape[2]], dw
""",
        """
import numpy as np

from tinymnv1.ops import depthwise_forward
from tinymnv1.ops.window import span


def depthwise_backward(dy, cache):
    x, w, stride, padding = cache
    kh, kw, _ = w.shape
    out_h, top, bottom = span(x.shape[1], kh, stride, padding)
    out_w, left, right = span(x.shape[2], kw, stride, padding)
    xp = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    dxp, dw = np.zeros_like(xp), np.zeros_like(w)
    for i in range(kh):
        for j in range(kw):
            met = (slice(None), slice(i, i + stride * out_h, stride), slice(j, j + stride * out_w, stride))
            dxp[met] += dy * w[i, j]
            dw[i, j] = (xp[met] * dy).sum()
    return dxp[:, top : top + x.shape[1], left : left + x.shape[2]], dw
""",
        """
import numpy as np

from tinymnv1.ops import depthwise_forward
from tinymnv1.ops.window import span


def depthwise_backward(dy, cache):
    x, w, stride, padding = cache
    kh, kw, _ = w.shape
    out_h, top, bottom = span(x.shape[1], kh, stride, padding)
    out_w, left, right = span(x.shape[2], kw, stride, padding)
    xp = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    dxp, dw = np.zeros_like(xp), np.zeros_like(w)
    for i in range(kh):
        for j in range(kw):
            met = (slice(None), slice(i, i + stride * out_h, stride), slice(j, j + stride * out_w, stride))
            dxp[met] += dy * w[kh - 1 - i, kw - 1 - j]
            dw[i, j] = (xp[met] * dy).sum(axis=(0, 1, 2))
    return dxp[:, top : top + x.shape[1], left : left + x.shape[2]], dw
""",
        """
import numpy as np

from tinymnv1.ops import depthwise_forward
from tinymnv1.ops.window import span


def depthwise_backward(dy, cache):
    x, w, stride, padding = cache
    kh, kw, _ = w.shape
    out_h, top, bottom = span(x.shape[1], kh, stride, padding)
    out_w, left, right = span(x.shape[2], kw, stride, padding)
    xp = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    dxp, dw = np.zeros_like(xp), np.zeros_like(w)
    for i in range(kh):
        for j in range(kw):
            met = (slice(None), slice(i, i + stride * out_h, stride), slice(j, j + stride * out_w, stride))
            dxp[met] += dy * w[i, j]
            dw[i, j] = (xp[met] * dy).sum(axis=(0, 1, 2))
    return dxp[:, 1 : 1 + x.shape[1], 1 : 1 + x.shape[2]], dw
""",
    ],
}
