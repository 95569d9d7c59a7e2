"""Is the gradient right, and if not, what is wrong with it? A library, a grader, and a lab to practise in.

    numeric_gradient, check_gradient, check_directional     for ops of your own (numeric.py)
    python -m tinymnv1.gradcheck                            checks this project's ops, layers and model
    python -m tinymnv1.gradcheck my_ops.py                  grades a learner's file
    python -m tinymnv1.gradcheck --mutants my_checks.py     broken ops, to practise writing checks on

README.md beside this file is the page for teachers.
"""

from tinymnv1.gradcheck.numeric import (
    ArgumentCheck,
    GradientCheck,
    check_directional,
    check_gradient,
    numeric_gradient,
    relative_error,
)

__all__ = [
    "ArgumentCheck",
    "GradientCheck",
    "check_directional",
    "check_gradient",
    "numeric_gradient",
    "relative_error",
]
