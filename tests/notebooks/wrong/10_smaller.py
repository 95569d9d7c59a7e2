"""Plausible wrong answers to the exercises of 10_smaller: each must fail its check."""

WIDEST = """
from tinymnv1.model import ModelConfig
from tinymnv1.summary import count_layers


def widest(kib, million, resolution):
    best = None
    for width in (k / 16 for k in range(1, 17)):
        rows = count_layers(ModelConfig(num_classes=10, width=width, stem_stride=1), resolution, resolution)
        size = {size}
        if size <= kib * 1024 and sum(r.madds for r in rows) <= million * 1e6:
            best = width
    return best
"""
"""An answer that is right but for the size of the network."""

WRONG = {
    "law": [
        """
POINTWISE, DEPTHWISE, STEM, CLASSIFIER = 539_492_352, 17_385_984, 10_838_016, 1_024_000


def multiply_adds(width, resolution):
    return (width * resolution / 224) ** 2 * (POINTWISE + DEPTHWISE + STEM + CLASSIFIER)
""",
        """
POINTWISE, DEPTHWISE, STEM, CLASSIFIER = 539_492_352, 17_385_984, 10_838_016, 1_024_000


def multiply_adds(width, resolution):
    area = (resolution / 224) ** 2
    return area * (width**2 * POINTWISE + width * (DEPTHWISE + STEM + CLASSIFIER))
""",
        """
POINTWISE, DEPTHWISE, STEM, CLASSIFIER = 539_492_352, 17_385_984, 10_838_016, 1_024_000


def multiply_adds(width, resolution):
    area = (resolution / 224) ** 2
    return area * (width**2 * POINTWISE + width * DEPTHWISE + STEM) + width * CLASSIFIER
""",
    ],
    "fold": [
        """
import numpy as np


def fold(w, gamma, beta, mean, var, eps=1e-5):
    scale = gamma / np.sqrt(var + eps)
    return w * scale, beta - mean


def fold_before(gamma, beta, mean, var, w, eps=1e-5):
    scale = gamma / np.sqrt(var + eps)
    return w * scale[:, None], (beta - mean * scale) @ w
""",
        """
import numpy as np


def fold(w, gamma, beta, mean, var, eps=1e-5):
    scale = gamma / (np.sqrt(var) + eps)
    return w * scale, beta - mean * scale


def fold_before(gamma, beta, mean, var, w, eps=1e-5):
    scale = gamma / (np.sqrt(var) + eps)
    return w * scale[:, None], (beta - mean * scale) @ w
""",
        """
import numpy as np


def fold(w, gamma, beta, mean, var, eps=1e-5):
    scale = gamma / np.sqrt(var + eps)
    return w * scale, beta - mean * scale


def fold_before(gamma, beta, mean, var, w, eps=1e-5):
    scale = gamma / np.sqrt(var + eps)
    return w * scale, (beta - mean * scale) @ w
""",
        """
import numpy as np


def fold(w, gamma, beta, mean, var, eps=1e-5):
    scale = gamma / np.sqrt(var + eps)
    return w * scale, beta - mean * scale


def fold_before(gamma, beta, mean, var, w, eps=1e-5):
    scale = gamma / np.sqrt(var + eps)
    return w * scale[:, None], beta - mean * scale
""",
        """
import numpy as np


def fold(w, gamma, beta, mean, var, eps=1e-5):
    return w * gamma / np.sqrt(var + eps)


def fold_before(gamma, beta, mean, var, w, eps=1e-5):
    scale = gamma / np.sqrt(var + eps)
    return w * scale[:, None], (beta - mean * scale) @ w
""",
    ],
    "quantise": [
        """
import numpy as np


def quantise(w, bits=8):
    scale = np.full(w.shape[-1], abs(w).max() / (2 ** (bits - 1) - 1))
    return np.rint(w / scale).astype(np.int32), scale


def dequantise(q, scale):
    return q * scale
""",
        """
import numpy as np


def quantise(w, bits=8):
    largest = abs(w).max(axis=tuple(range(w.ndim - 1)))
    scale = np.where(largest > 0, largest, 1) / (2 ** (bits - 1) - 1)
    return (w / scale).astype(np.int32), scale


def dequantise(q, scale):
    return q * scale
""",
        """
import numpy as np


def quantise(w, bits=8):
    scale = abs(w).max(axis=tuple(range(w.ndim - 1))) / (2 ** (bits - 1) - 1)
    return np.rint(w / scale), scale


def dequantise(q, scale):
    return q * scale
""",
        """
import numpy as np


def quantise(w, bits=8):
    largest = w.max(axis=tuple(range(w.ndim - 1)))
    scale = np.where(largest > 0, largest, 1) / (2 ** (bits - 1) - 1)
    return np.rint(w / scale).astype(np.int32), scale


def dequantise(q, scale):
    return q * scale
""",
        """
import numpy as np


def quantise(w, bits=8):
    largest = abs(w).max(axis=tuple(range(w.ndim - 1)))
    scale = np.where(largest > 0, largest, 1) / (2 ** (bits - 1) - 1)
    return np.rint(w / scale).astype(np.int32)


def dequantise(q, scale):
    return q * scale
""",
        """
import numpy as np


def quantise(w, bits=8):
    scale = abs(w).max(axis=tuple(range(w.ndim - 1))) / (2 ** (bits - 1) - 1)
    return np.rint(w / scale).astype(np.int8), scale


def dequantise(q, scale):
    return q * scale
""",
    ],
    "widest": [
        WIDEST.format(size=size)
        for size in (
            "sum(r.parameters - r.statistics for r in rows)",
            "4 * sum(r.parameters for r in rows)",
            "sum(r.parameters - r.statistics for r in rows) - 10 + 4 * sum(r.channels for r in rows)",
            "sum(r.parameters - r.statistics + 4 * r.channels for r in rows if r.madds)",
            "sum(r.parameters - r.statistics + 4 * r.channels * (r.statistics > 0) for r in rows)",
        )
    ],
}
