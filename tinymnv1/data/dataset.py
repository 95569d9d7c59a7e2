"""What every data set gives: uint8 images, integer labels, class names, and the statistics to normalise with."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from tinymnv1.errors import ConfigError, DataError
from tinymnv1.ops.window import Array


@dataclass(frozen=True)
class Dataset:
    """A classification data set in memory.

    train_images, test_images: (N, H, W, 3) uint8.  train_labels, test_labels: (N,) int64, indices into `classes`.
    mean, std: per channel (3,), of training pixels scaled to [0, 1].
    held_out: what the test images are: "test", or "validation" after `with_validation`.
    """

    name: str
    classes: tuple[str, ...]
    train_images: Array
    train_labels: Array
    test_images: Array
    test_labels: Array
    mean: tuple[float, ...]
    std: tuple[float, ...]
    held_out: str = "test"

    def __post_init__(self) -> None:
        for part, images, labels in (
            ("training", self.train_images, self.train_labels),
            (self.held_out, self.test_images, self.test_labels),
        ):
            if len(images) == 0:
                raise DataError(f"{self.name}: no {part} images")
            if len(images) != len(labels) or labels.min() < 0 or labels.max() >= len(self.classes):
                raise DataError(f"{self.name}: {part} labels do not fit the images and the {len(self.classes)} classes")

    def untested(self) -> tuple[str, ...]:
        """The classes without a test image, of which an accuracy says nothing."""
        tested = set(self.test_labels.tolist())
        return tuple(name for k, name in enumerate(self.classes) if k not in tested)

    def fingerprint(self) -> dict[str, str]:
        """Size and hash of each part: a run that is resumed must find the data it began with, or say what differs."""
        parts = {"classes": f"{len(self.classes)}, {_hash(chr(10).join(self.classes).encode())}"}
        for name, array in (
            ("training images", self.train_images),
            ("training labels", self.train_labels),
            ("test images", self.test_images),
            ("test labels", self.test_labels),
        ):
            parts[name] = f"{'x'.join(map(str, array.shape))}, {_hash(np.ascontiguousarray(array).data)}"
        return parts

    def with_validation(self, count: int) -> "Dataset":
        """The same set with `count` of its training images in place of the test images, which are out of reach then.

        Which ones is the same for every run and every seed, and each class has its share of them, to within one image.
        mean and std stay those of all training images. Raises ConfigError if count is below 1, or
        leaves none to train of all images or of a class.
        """
        total = len(self.train_labels)
        if not 1 <= count < total:
            raise ConfigError(f"--validation must be from 1 to {total - 1} of the {total} training images, got {count}")
        order = np.random.default_rng(0).permutation(total)
        by_class = order[np.argsort(self.train_labels[order], kind="stable")]
        chosen = np.zeros(total, bool)
        chosen[by_class[np.arange(count) * total // count]] = True  # at equal distances
        if lost := set(self.train_labels.tolist()) - set(self.train_labels[~chosen].tolist()):
            name = self.classes[min(lost)]
            raise ConfigError(f"--validation {count} leaves no training image of class {name!r}: hold fewer out")
        return replace(
            self,
            train_images=self.train_images[~chosen],
            train_labels=self.train_labels[~chosen],
            test_images=self.train_images[chosen],
            test_labels=self.train_labels[chosen],
            held_out="validation",
        )

    def limited(self, count: int, seed: int) -> "Dataset":
        """At most `count` training and `count` test images, a random choice that depends on the seed alone.

        Raises ConfigError if count is below 1.
        """
        if count < 1:
            raise ConfigError(f"count must be at least 1, got {count}")
        train, test = (
            np.sort(np.random.default_rng([seed, part]).permutation(len(labels))[:count])
            for part, labels in enumerate((self.train_labels, self.test_labels))
        )
        return replace(
            self,
            train_images=self.train_images[train],
            train_labels=self.train_labels[train],
            test_images=self.test_images[test],
            test_labels=self.test_labels[test],
        )


def _hash(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def channel_statistics(images: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of (N, H, W, 3) uint8 images, on the scale [0, 1].

    Both follow exactly from each channel's histogram, which is counted a few images at a time: so no large array is
    made.
    """
    levels = np.arange(256) / 255
    mean, std = [], []
    for channel in range(images.shape[3]):
        some = (images[i : i + 256, ..., channel].ravel() for i in range(0, len(images), 256))
        share = sum(np.bincount(pixels, minlength=256) for pixels in some) / images[..., channel].size
        m = float(share @ levels)
        mean.append(m)
        std.append(max(float(share @ (levels - m) ** 2) ** 0.5, 1 / 255))  # a constant channel must not divide by 0
    return tuple(mean), tuple(std)
