"""The speed: the names and signatures of `tinymnv1.ops`, float32 only, compiled by Numba where that pays.

This is the only folder that imports numba. What it does not speed up it re-exports from `ops`, so that a layer can
be given either module. The pointwise convolution is among those: it is one matrix product, and NumPy's BLAS (100 to
200 GFLOP/s on two cores) beats plain Numba loops (16 to 72) at every shape of the network.

A kernel file holds everything that its compiled functions inline: Numba's on-disk cache does not notice an edit in
another file. Results of the kernels do not depend on the number of threads: work is split into chunks whose number
follows from the shapes alone, and the chunks' sums are added in order.
"""

import os

import numba

# Two thread pools share the cores here: OpenMP's for the kernels, BLAS's for the matrix products. OpenMP threads that
# spin while they wait for work take the core away from BLAS: a training step took 3.7 times as long at width 0.25, and
# twice as long at 1.0. So idle threads sleep. (Read when the OpenMP library loads; a value that is set already stays.)
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if "NUMBA_THREADING_LAYER_PRIORITY" not in os.environ:
    # The first of these that loads is used: OpenMP starts a parallel loop in about 2 us, Numba's own queue in about 30.
    numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]

from tinymnv1.kernels.activation import relu6_backward, relu6_forward
from tinymnv1.kernels.batchnorm import batchnorm_backward, batchnorm_forward, batchnorm_inference
from tinymnv1.kernels.depthwise import depthwise_backward, depthwise_forward
from tinymnv1.kernels.pooling import (
    avgpool_backward,
    avgpool_forward,
    global_avgpool_backward,
    global_avgpool_forward,
    maxpool_backward,
    maxpool_forward,
)
from tinymnv1.ops import (
    conv2d_backward,
    conv2d_forward,
    dropout_backward,
    dropout_forward,
    linear_backward,
    linear_forward,
    pointwise_backward,
    pointwise_forward,
    relu_backward,
    relu_forward,
    softmax,
    softmax_cross_entropy,
)

__all__ = [
    "avgpool_backward",
    "avgpool_forward",
    "batchnorm_backward",
    "batchnorm_forward",
    "batchnorm_inference",
    "conv2d_backward",
    "conv2d_forward",
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
    "pointwise_backward",
    "pointwise_forward",
    "relu6_backward",
    "relu6_forward",
    "relu_backward",
    "relu_forward",
    "softmax",
    "softmax_cross_entropy",
]
