"""Plausible wrong answers to the exercises of 08_making_it_fast: each must fail its check."""

WRONG = {
    "intensity": [
        """
def pointwise_intensity(size, cin, cout):
    return size**2 * cin * cout / (4 * size**2 * (cin + cout))


def depthwise_intensity(size, channels):
    return 9 * size**2 * channels / (4 * 2 * size**2 * channels)
""",
        """
def pointwise_intensity(size, cin, cout):
    return 2 * size**2 * cin * cout / (4 * size**2 * cin)


def depthwise_intensity(size, channels):
    return 2 * 9 * size**2 * channels / (4 * size**2 * channels)
""",
        """
def pointwise_intensity(size, cin, cout):
    return 2 * size**2 * cin * cout / (4 * (size**2 * (cin + cout) + cin * cout))


def depthwise_intensity(size, channels):
    return 2 * 9 * size**2 * channels / (4 * 2 * size**2 * channels)
""",
    ],
    "scale_shift": [
        """
import numpy as np

from tinymnv1.kernels.simd import LANES, vfma, vload, vsplat, vstore


def scale_shift(x, y):
    for i in range(0, x.size // LANES * LANES, LANES):
        vstore(y, i, vfma(vload(x, i), vsplat(np.float32(2)), vsplat(np.float32(1))))
""",
        """
import numpy as np

from tinymnv1.kernels.simd import LANES, vfma, vload, vsplat, vstore


def scale_shift(x, y):
    for i in range(0, x.size, LANES):
        vstore(y, i, vfma(vload(x, i), vsplat(np.float32(2)), vsplat(np.float32(1))))
""",
        """
from tinymnv1.kernels.simd import LANES, vload, vstore


def scale_shift(x, y):
    for i in range(0, x.size // LANES * LANES, LANES):
        vstore(y, i, 2 * vload(x, i) + 1)
""",
    ],
    "roofline": [
        """
def least_time(operations, bytes_moved, peak, bandwidth):
    arithmetic, memory = operations / peak, bytes_moved / bandwidth
    return arithmetic + memory, "arithmetic" if arithmetic > memory else "memory"
""",
        """
def least_time(operations, bytes_moved, peak, bandwidth):
    arithmetic, memory = operations / peak, bytes_moved / bandwidth
    return min(arithmetic, memory), "arithmetic" if arithmetic < memory else "memory"
""",
        """
def least_time(operations, bytes_moved, peak, bandwidth):
    if operations / bytes_moved < peak / bandwidth:
        return operations / peak, "arithmetic"
    return bytes_moved / bandwidth, "memory"
""",
    ],
    "amdahl": [
        """
def speed_up(p, n):
    return p * n + (1 - p)


limit_at_95_percent = 20
""",
        """
def speed_up(p, n):
    return 1 / ((1 - p) + p / n)


limit_at_95_percent = 0.95
""",
        """
def speed_up(p, n):
    return (1 - p) + p / n


limit_at_95_percent = 20
""",
    ],
}
