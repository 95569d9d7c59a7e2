"""The speed: the names and signatures of `tinymnv1.ops`, float32 only, compiled by Numba.

This is the only folder that imports numba (`train.py` does, too, to set the number of threads). What it does not speed
up it re-exports from `ops`, so that a layer can be given either module.

    simd.py       vectors in registers, and the register tile of a matrix product
    product.py    matrix products: pointwise, linear and conv2d are made of them
    depthwise.py  the depthwise convolution; its rows on the same vectors in strips.py and strips_backward.py
    compile.py    how all of it is compiled; compile_time.py, what keeps that short
    kept_memory.py   where large results go: memory that is kept, not new pages each time

These serve the layers. The engines' kernels are not exported here: `fused_*.py`, `gather.py` and `moments.py` for
training, `inference.py` for inference, on blocks of rows (`blocks.py`) that the layers' products use, too.

There is one thread pool. Nothing here calls BLAS: its threads and OpenMP's, each spinning while they wait for work,
take the cores away from each other, and made a training step at width 0.25 up to four times as slow.

Results do not depend on the number of threads: where parts of the work have sums of their own, their number follows
from the shapes alone, and the sums are added in order.
"""

import os

import numba

if "NUMBA_THREADING_LAYER_PRIORITY" not in os.environ:
    # The first of these that loads is used: OpenMP starts a parallel loop in about 2 us, Numba's own queue in about 30.
    numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]

from tinymnv1.kernels.activation import relu6_backward, relu6_forward
from tinymnv1.kernels.augment import augment_batch
from tinymnv1.kernels.batchnorm import batchnorm_backward, batchnorm_forward, batchnorm_inference
from tinymnv1.kernels.conv2d import conv2d_backward, conv2d_forward
from tinymnv1.kernels.depthwise import depthwise_backward, depthwise_forward
from tinymnv1.kernels.linear import linear_backward, linear_forward
from tinymnv1.kernels.optimizer import adam_step, average_step, scale_in_place, sgd_step, sum_of_squares
from tinymnv1.kernels.pointwise import pointwise_backward, pointwise_forward
from tinymnv1.kernels.pooling import (
    avgpool_backward,
    avgpool_forward,
    global_avgpool_backward,
    global_avgpool_forward,
    maxpool_backward,
    maxpool_forward,
)
from tinymnv1.ops import (
    crop_flip,
    cutout,
    dropout_backward,
    dropout_forward,
    normalise,
    recolour,
    relu_backward,
    relu_forward,
    softmax,
    softmax_cross_entropy,
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
    "conv2d_forward",
    "crop_flip",
    "cutout",
    "depthwise_backward",
    "depthwise_forward",
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
