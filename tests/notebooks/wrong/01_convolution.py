"""Plausible wrong answers to the exercises of 01_convolution: each must fail its check."""

WRONG = {
    "output_size": [
        """
def output_size(size, kernel, stride, padding):
    return (size + 2 * padding - kernel) // stride
""",
        """
def output_size(size, kernel, stride, padding):
    return (size + padding - kernel) // stride + 1
""",
        """
def output_size(size, kernel, stride, padding):
    return size // stride
""",
    ],
    "multiply_adds": [
        """
def multiply_adds(height, width, cin, cout, kernel, stride):
    return height * width * cout * kernel * kernel * cin
""",
        """
def multiply_adds(height, width, cin, cout, kernel, stride):
    return (height // stride) * (width // stride) * cout * kernel * kernel * cin
""",
    ],
    "weight_gradient": [
        """
import numpy as np


def weight_gradient(xp, dy, kernel, stride):
    _, out_h, out_w, outputs = dy.shape
    dw = np.empty((kernel, kernel, xp.shape[3], outputs))
    for i in range(kernel):
        for j in range(kernel):
            met = xp[:, i : i + out_h, j : j + out_w]
            dw[i, j] = np.einsum("nhwc,nhwo->co", met, dy)
    return dw
""",
        """
import numpy as np


def weight_gradient(xp, dy, kernel, stride):
    n, out_h, out_w, outputs = dy.shape
    dw = np.empty((kernel, kernel, xp.shape[3], outputs))
    for i in range(kernel):
        for j in range(kernel):
            met = xp[:, i : i + stride * out_h : stride, j : j + stride * out_w : stride]
            dw[i, j] = np.einsum("nhwc,nhwo->co", met, dy) / n
    return dw
""",
        """
import numpy as np


def weight_gradient(xp, dy, kernel, stride):
    _, out_h, out_w, outputs = dy.shape
    dw = np.empty((kernel, kernel, xp.shape[3], outputs))
    for i in range(kernel):
        for j in range(kernel):
            met = xp[:, i : i + stride * out_h : stride, j : j + stride * out_w : stride]
            dw[kernel - 1 - i, kernel - 1 - j] = np.einsum("nhwc,nhwo->co", met, dy)
    return dw
""",
    ],
    "conv2d_forward": [
        """
import numpy as np

from tinymnv1.ops.window import span


def conv2d_forward(x, w, stride=1, padding="symmetric"):
    kh, kw, _, outputs = w.shape
    out_h, top, bottom = span(x.shape[1], kh, stride, padding)
    out_w, left, right = span(x.shape[2], kw, stride, padding)
    xp = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    y = np.zeros((x.shape[0], out_h, out_w, outputs), x.dtype)
    for i in range(kh):
        for j in range(kw):
            y += xp[:, i : i + out_h, j : j + out_w] @ w[i, j]
    return y, None
""",
        """
import numpy as np

from tinymnv1.ops.window import span


def conv2d_forward(x, w, stride=1, padding="symmetric"):
    kh, kw, _, outputs = w.shape
    out_h, top, bottom = span(x.shape[1], kh, stride, padding)
    out_w, left, right = span(x.shape[2], kw, stride, padding)
    xp = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    y = np.zeros((x.shape[0], out_h, out_w, outputs), x.dtype)
    for i in range(kh):
        for j in range(kw):
            y += xp[:, i : i + stride * out_h : stride, j : j + stride * out_w : stride] @ w[kh - 1 - i, kw - 1 - j]
    return y, None
""",
    ],
}
