"""MobileNetV1 from scratch: every layer with a hand-derived backward pass, in NumPy and Numba.

    ops/        the mathematics, one op a file       kernels/   the same ops, fast
    layers.py   op + parameters + cache              model.py   MobileNetV1
    optim.py    SGD, Adam, AdamW                     trainer.py the training loop

Start with `python -m tinymnv1.train`, or with `MobileNetV1` below.
"""

from tinymnv1.model import MobileNetV1
from tinymnv1.ops import softmax_cross_entropy

__version__ = "0.1.0"
__all__ = ["MobileNetV1", "__version__", "softmax_cross_entropy"]
