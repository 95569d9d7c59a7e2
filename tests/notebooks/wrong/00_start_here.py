"""Plausible wrong answers to the exercises of 00_start_here: each must fail its check."""

WRONG = {
    "shapes": [
        """
images_shape = (16, 3, 48, 64)
logits_shape = (16, 7)
gradient_of_logits_shape = (16, 7)
gradient_of_images_shape = (16, 3, 48, 64)
""",
        """
images_shape = (16, 48, 64, 3)
logits_shape = (16, 7)
gradient_of_logits_shape = (7,)
gradient_of_images_shape = (16, 48, 64, 3)
""",
    ],
    "uniform_loss": [
        """
import math


def uniform_loss(classes):
    return math.log10(classes)
""",
        """
def uniform_loss(classes):
    return 1 / classes
""",
    ],
}
