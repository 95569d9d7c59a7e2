"""Plausible wrong answers to the exercises of 09_looking_inside: each must fail its check."""

WRONG = {
    "cam": [
        """
import numpy as np


def class_activation_map(features, weight, k):
    return features * weight[:, k]
""",
        """
import numpy as np


def class_activation_map(features, weight, k):
    return features.mean(axis=3) * weight[:, k].mean()
""",
        """
def class_activation_map(features, weight, k):
    return features.mean(axis=(1, 2)) @ weight[:, k]
""",
        """
def class_activation_map(features, weight, k):
    return features @ weight[k]
""",
    ],
    "confused": [
        """
import numpy as np


def most_confused(matrix):
    mistakes = matrix * (1 - np.eye(len(matrix)))
    true, predicted = np.unravel_index(mistakes.argmax(), mistakes.shape)
    return int(true), int(predicted)
""",
        """
import numpy as np


def most_confused(matrix):
    share = matrix / matrix.sum(axis=0, keepdims=True) * (1 - np.eye(len(matrix)))
    true, predicted = np.unravel_index(share.argmax(), share.shape)
    return int(true), int(predicted)
""",
        """
import numpy as np


def most_confused(matrix):
    share = matrix / matrix.sum(axis=1) * (1 - np.eye(len(matrix)))
    true, predicted = np.unravel_index(share.argmax(), share.shape)
    return int(true), int(predicted)
""",
    ],
    "dead": [
        """
import numpy as np


def count_dead(a):
    return int((a.min(axis=(0, 1, 2)) == 0).sum()), int((a.max(axis=(0, 1, 2)) == 6).sum())
""",
        """
import numpy as np


def count_dead(a):
    return int((a == 0).all(axis=(1, 2)).sum()), int((a == 6).all(axis=(1, 2)).sum())
""",
    ],
    "occlude": [
        """
import numpy as np


def occlusions(image, size, step, fill=0.0):
    covered, copy = [], image.copy()
    for i in range(0, image.shape[0] - size + 1, step):
        for j in range(0, image.shape[1] - size + 1, step):
            copy[i : i + size, j : j + size] = fill
            covered.append(copy.copy())
    return np.stack(covered)
""",
        """
import numpy as np


def occlusions(image, size, step, fill=0.0):
    covered = []
    for i in range(0, image.shape[0] - size, step):
        for j in range(0, image.shape[1] - size, step):
            copy = image.copy()
            copy[i : i + size, j : j + size] = fill
            covered.append(copy)
    return np.stack(covered)
""",
        """
import numpy as np


def occlusions(image, size, step, fill=0.0):
    covered = []
    for i in range(0, image.shape[0], step):
        for j in range(0, image.shape[1], step):
            copy = image.copy()
            copy[i : i + size, j : j + size] = fill
            covered.append(copy)
    return np.stack(covered)
""",
    ],
}
