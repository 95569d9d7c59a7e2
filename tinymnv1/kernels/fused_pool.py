"""The global mean at the end of the network, on the last convolution's raw output; see `blocks.py`."""

import numpy as np
from numba import prange

from tinymnv1.kernels.blocks import MEAN, SCALE, SHIFT, fill_zero
from tinymnv1.kernels.compile import parallel, serial
from tinymnv1.kernels.simd import LANES, vadd, vclip, vfma, vload, vmul, vpass, vsplat, vstore, vsub, vzero


@serial
def _pool_image(n, z, distance, bn, pixels, width, low, high, pooled):
    share, bottom, top = vsplat(np.float32(1) / np.float32(pixels)), vsplat(low), vsplat(high)
    for c in range(0, width, LANES):
        scale, shift = vload(bn, SCALE * width + c), vload(bn, SHIFT * width + c)
        total, place = vzero(), n * pixels * distance + c
        for _ in range(pixels):
            total = vadd(total, vclip(vfma(vload(z, place), scale, shift), bottom, top))
            place += distance
        vstore(pooled, n * distance + c, vmul(total, share))


@parallel
def pool_forward(z, distance, bn, images, pixels, width, low, high, pooled):
    """pooled[n] = the mean over an image's pixels of clip(bn(z), low, high): rows of `width`, `distance` apart.

    The inference engine, which has no batch norm left, calls it with one that changes nothing.
    """
    for n in prange(images):
        _pool_image(np.int64(n), z, distance, bn, pixels, width, low, high, pooled)


@serial
def _pool_backward_image(n, dpooled, z, bn, pixels, width, low, high, dy, partial, i):
    share, bottom, top = vsplat(np.float32(1) / np.float32(pixels)), vsplat(low), vsplat(high)
    for c in range(0, width, LANES):
        scale, shift = vload(bn, SCALE * width + c), vload(bn, SHIFT * width + c)
        mean = vload(bn, MEAN * width + c)
        g, gz = vload(partial, i + c), vload(partial, i + width + c)
        each, place = vmul(vload(dpooled, n * width + c), share), n * pixels * width + c
        for _ in range(pixels):
            zv = vload(z, place)
            d = vpass(each, vfma(zv, scale, shift), bottom, top)
            vstore(dy, place, d)
            g, gz = vadd(g, d), vfma(d, vsub(zv, mean), gz)
            place += width
        vstore(partial, i + c, g)
        vstore(partial, i + width + c, gz)


@parallel
def pool_backward(dpooled, z, bn, images, pixels, width, low, high, dy, chunks, partial):
    """dy of the last batch norm from dpooled (images, width), flat, and its sums. partial: (chunks, 2, width), flat."""
    for chunk in prange(chunks):
        i = chunk * 2 * width
        fill_zero(partial, i, 2 * width)
        for n in range(chunk * images // chunks, (chunk + 1) * images // chunks):
            _pool_backward_image(n, dpooled, z, bn, pixels, width, low, high, dy, partial, i)
