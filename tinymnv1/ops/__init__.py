"""The mathematics: each op is a pair of pure functions, forward and hand-derived backward, in plain NumPy.

    y, cache = depthwise_forward(x, w, stride=2)
    dx, dw   = depthwise_backward(dy, cache)

Activations are NHWC. Every op keeps the dtype it is given, float32 or float64 (those that prepare images make float32
of uint8), never writes to its inputs and never returns an array that shares memory with one. A cache may hold the
inputs themselves, so leave them as they are until the backward pass is done. (The optimizers' steps, in optimizer.py,
are made to work in place.)

`tinymnv1.kernels` exports the same names, but for the naive loops, with the same signatures, in Numba.
"""

from tinymnv1.ops.activation import relu6_backward, relu6_forward, relu_backward, relu_forward
from tinymnv1.ops.augment import augment_batch, crop_flip, cutout, normalise, recolour
from tinymnv1.ops.batchnorm import batchnorm_backward, batchnorm_forward, batchnorm_inference
from tinymnv1.ops.conv2d import (
    conv2d_backward,
    conv2d_backward_naive,
    conv2d_forward,
    conv2d_forward_naive,
)
from tinymnv1.ops.depthwise import (
    depthwise_backward,
    depthwise_backward_naive,
    depthwise_forward,
    depthwise_forward_naive,
)
from tinymnv1.ops.dropout import dropout_backward, dropout_forward
from tinymnv1.ops.linear import linear_backward, linear_forward
from tinymnv1.ops.loss import softmax, softmax_cross_entropy
from tinymnv1.ops.optimizer import adam_step, average_step, scale_in_place, sgd_step, sum_of_squares
from tinymnv1.ops.pointwise import pointwise_backward, pointwise_forward
from tinymnv1.ops.pooling import (
    avgpool_backward,
    avgpool_forward,
    global_avgpool_backward,
    global_avgpool_forward,
    maxpool_backward,
    maxpool_forward,
)

__all__ = [
    "adam_step",
    "augment_batch",
    "average_step",
    "avgpool_backward",
    "avgpool_forward",
    "batchnorm_backward",
    "batchnorm_forward",
    "batchnorm_inference",
    "conv2d_backward",
    "conv2d_backward_naive",
    "conv2d_forward",
    "conv2d_forward_naive",
    "crop_flip",
    "cutout",
    "depthwise_backward",
    "depthwise_backward_naive",
    "depthwise_forward",
    "depthwise_forward_naive",
    "dropout_backward",
    "dropout_forward",
    "global_avgpool_backward",
    "global_avgpool_forward",
    "linear_backward",
    "linear_forward",
    "maxpool_backward",
    "maxpool_forward",
    "normalise",
    "pointwise_backward",
    "pointwise_forward",
    "recolour",
    "relu6_backward",
    "relu6_forward",
    "relu_backward",
    "relu_forward",
    "scale_in_place",
    "sgd_step",
    "softmax",
    "softmax_cross_entropy",
    "sum_of_squares",
]
