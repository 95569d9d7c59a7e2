"""Plausible wrong answers to the exercises of 11_project: each must fail its check."""

WRONG = {
    "majority": [
        """
import numpy as np


def majority_accuracy(train_labels, test_labels):
    return float(np.mean(test_labels == np.bincount(test_labels).argmax()))
""",
        """
import numpy as np


def majority_accuracy(train_labels, test_labels):
    return float(np.bincount(train_labels).max() / len(train_labels))
""",
        """
import numpy as np


def majority_accuracy(train_labels, test_labels):
    _, counts = np.unique(train_labels, return_counts=True)
    return float(np.mean(test_labels == counts.argmax()))
""",
    ],
    "leaks": [
        """
def leaked(train_images, test_images):
    known = {image.tobytes() for image in train_images}
    return [k for k, image in enumerate(test_images) if image.tobytes() in known]
""",
        """
def leaked(train_images, test_images):
    known = {image.tobytes() for image in train_images} | {image[::-1].tobytes() for image in train_images}
    return [k for k, image in enumerate(test_images) if image.tobytes() in known]
""",
        """
def leaked(train_images, test_images):
    known = {image.tobytes() for image in train_images} | {image[:, :, ::-1].tobytes() for image in train_images}
    return [k for k, image in enumerate(test_images) if image.tobytes() in known]
""",
        """
def leaked(train_images, test_images):
    return [k for k, image in enumerate(test_images) if image in train_images or image[:, ::-1] in train_images]
""",
    ],
    "split": [
        """
import numpy as np


def stratified_split(labels, share, seed):
    order = np.random.default_rng(seed).permutation(len(labels))
    count = round(share * len(labels))
    return order[count:], order[:count]
""",
        """
import numpy as np


def stratified_split(labels, share, seed):
    train, val = [], []
    for k in np.unique(labels):
        members = np.flatnonzero(labels == k)
        count = round(share * len(members))
        val.extend(members[:count])
        train.extend(members[count:])
    return np.array(train), np.array(val)
""",
        """
import numpy as np


def stratified_split(labels, share, seed):
    rng, train, val = np.random.default_rng(seed), [], []
    for k in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == k))
        count = int(share * len(members))
        val.extend(members[:count])
        train.extend(members[count:])
    return np.array(train), np.array(val)
""",
        """
import numpy as np


def stratified_split(labels, share, seed):
    rng, val = np.random.default_rng(seed), []
    for k in np.unique(labels):
        members = np.flatnonzero(labels == k)
        val.extend(rng.choice(members, round(share * len(members))))
    return np.setdiff1d(np.arange(len(labels)), val), np.array(val)
""",
        """
import numpy as np


def stratified_split(labels, share, seed):
    rng, val = np.random.default_rng(seed), []
    for k in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == k))
        val.append(members[: round(share * len(members))])
    return np.setdiff1d(np.arange(len(labels)), np.concatenate(val)), val
""",
    ],
    "wilson": [
        """
import math


def wilson(right, count, z=1.96):
    p = right / count
    half = z * math.sqrt(p * (1 - p) / count)
    return p - half, p + half
""",
        """
import math


def wilson(right, count, z=1.96):
    p = right / count
    middle = p + z**2 / (2 * count)
    half = z * math.sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    return middle - half, middle + half
""",
    ],
}
