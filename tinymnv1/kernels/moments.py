"""Batch norm's numbers per channel, put together from what the blocks of a fused kernel summed up.

Forward, each block of rows b left the mean m_b and the sum of squared deviations q_b of its n_b rows. For all M rows
(Chan, Golub and LeVeque 1979, for many parts at once):

    mean = sum n_b m_b / M          M var = sum (q_b + n_b (m_b - mean)^2)

Backward, with g = dy where the clip lets it pass, each chunk left the sums of g and of g (z - mean). Then

    dbeta = sum g           dgamma = inv_std * sum g (z - mean)
    dz = along_dy g + along_z z + constant          along_dy = gamma inv_std
                                                    along_z = -gamma inv_std^2 dgamma / M
                                                    constant = -gamma inv_std dbeta / M - along_z mean

which is `tinymnv1.ops.batchnorm`'s dx with xhat = inv_std (z - mean) written out.
"""

import numpy as np

from tinymnv1.kernels.blocks import ALONG_DY, ALONG_Z, CONSTANT, INV_STD, MEAN, SCALE, SHIFT
from tinymnv1.kernels.compile import single


@single
def finish_forward(partial, counts, gamma, beta, eps, momentum, running_mean, running_var, width, bn):
    """Set SCALE, SHIFT, MEAN and INV_STD of bn, and move the running statistics.

    partial: (blocks, 2, width), flat.  counts: rows of each block.  gamma and so on: (C,), C <= width.
    """
    channels, blocks = gamma.size, counts.size
    total = 0.0
    for count in counts:  # counts.sum() would double the time of compilation
        total += count
    mean, square = np.zeros(channels), np.zeros(channels)
    for b in range(blocks):
        place, share = b * 2 * width, counts[b] / total
        for c in range(channels):
            mean[c] += share * partial[place + c]
    for b in range(blocks):
        place, count = b * 2 * width, counts[b]
        for c in range(channels):
            away = partial[place + c] - mean[c]
            square[c] += partial[place + width + c] + count * away * away
    for c in range(channels):
        var = square[c] / total
        inv_std = 1 / np.sqrt(var + eps)
        bn[SCALE * width + c] = gamma[c] * inv_std
        bn[SHIFT * width + c] = beta[c] - mean[c] * gamma[c] * inv_std
        bn[MEAN * width + c] = mean[c]
        bn[INV_STD * width + c] = inv_std
        running_mean[c] += momentum * (mean[c] - running_mean[c])
        running_var[c] += momentum * (square[c] / (total - 1) - running_var[c])


@single
def finish_backward(partial, chunks, count, gamma, dgamma, dbeta, width, bn):
    """Set dgamma and dbeta, and ALONG_DY, ALONG_Z and CONSTANT of bn. partial: (chunks, 2, width), flat."""
    channels = gamma.size
    for c in range(channels):
        g, gz = 0.0, 0.0
        for chunk in range(chunks):
            g += partial[chunk * 2 * width + c]
            gz += partial[chunk * 2 * width + width + c]
        inv_std, mean = np.float64(bn[INV_STD * width + c]), np.float64(bn[MEAN * width + c])
        scale = gamma[c] * inv_std
        along_z = -scale * inv_std * (inv_std * gz) / count
        dbeta[c], dgamma[c] = g, inv_std * gz
        bn[ALONG_DY * width + c] = scale
        bn[ALONG_Z * width + c] = along_z
        bn[CONSTANT * width + c] = -scale * g / count - along_z * mean
