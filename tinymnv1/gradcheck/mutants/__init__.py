"""The mutation lab's stock: broken versions of the ops, each one plausible mistake with a name and a cause.

They are what the grader's hints are tested on, and what a learner's own checks have to catch. Each file holds the
mutants of one kind of op; to add one, write it beside its like.
"""

from tinymnv1.gradcheck.mutants import convolution, elementwise, loss, matrix, normalisation, pooling
from tinymnv1.gradcheck.mutants.catalogue import MUTANTS, Mutant, right_functions

__all__ = [
    "MUTANTS",
    "Mutant",
    "convolution",
    "elementwise",
    "loss",
    "matrix",
    "normalisation",
    "pooling",
    "right_functions",
]
