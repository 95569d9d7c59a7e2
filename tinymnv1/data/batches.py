"""From uint8 images to the batches that a model takes: resize, normalise, shuffle, augment."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
from PIL import Image

from tinymnv1 import ops as numpy_ops
from tinymnv1.data.augment import AUGMENTATIONS, draw_colours, draw_holes, first_sides
from tinymnv1.errors import ConfigError
from tinymnv1.ops import crop_flip, cutout, normalise, recolour
from tinymnv1.ops.window import Array


@dataclass(frozen=True)
class Preprocessing:
    """What happens to every image before the model sees it, in training and ever after: a checkpoint stores it.

    resolution: pixels; images of another size are scaled (bilinear).
    mean, std: per channel, of pixels scaled to [0, 1]; (0, 0, 0) and (1, 1, 1) only scale.
    """

    resolution: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.resolution < 1:
            raise ConfigError(f"resolution must be at least 1 pixel, got {self.resolution}")
        if len(self.mean) != len(self.std) or not all(s > 0 for s in self.std):
            raise ConfigError("mean and std must have one number a channel, and every std must be above 0")

    def __call__(self, images: Array) -> Array:
        """images: (N, H, W, 3) uint8. Returns (N, resolution, resolution, 3) float32, (pixel / 255 - mean) / std."""
        return normalise(resize(images, self.resolution), self.mean, self.std)


def resize(images: Array, resolution: int) -> Array:
    """Scale (N, H, W, 3) uint8 images to resolution x resolution, bilinear with antialiasing (Pillow's)."""
    if images.shape[1:3] == (resolution, resolution):
        return images
    size = (resolution, resolution)
    scaled = np.empty((len(images), *size, images.shape[3]), np.uint8)
    for i, image in enumerate(images):
        scaled[i] = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    return scaled


@dataclass(frozen=True)
class TrainingBatches:
    """Shuffled, augmented batches of a training set.

    images: (N, H, W, 3) uint8.  labels: (N,).  augment: a name in `AUGMENTATIONS`.
    cutout: side in pixels of a square that is set to zero in each image (`draw_holes`); 0 means none.
    alternate_flip: mirror an image in every second epoch instead of at random (`first_sides`).
    jitter: how far contrast, saturation and brightness of the result change at random (`draw_colours`); 0 means not
    at all.
    ops: the backend that makes the batches, `tinymnv1.ops` or `tinymnv1.kernels`; theirs are the same bit for bit.
    An epoch has N // batch_size batches: the rest of fewer images is left out, since the batch statistics of a handful
    of images are poor (a set smaller than one batch is one batch).

    The order of epoch e comes from a Generator seeded by (seed, e), the augmentation of its k-th batch from one seeded
    by (seed, e, k). So any batch of any epoch can be made again on its own, which is how a run resumes exactly. (To
    NumPy (seed, e) and (seed, e, 0) are the same: batch 0 is augmented by the numbers that shuffled the epoch, which
    does no harm.)
    """

    images: Array
    labels: Array
    batch_size: int
    preprocess: Preprocessing
    augment: str = "none"
    seed: int = 0
    ops: ModuleType = numpy_ops
    cutout: int = 0
    alternate_flip: bool = False
    jitter: float = 0.0
    _first_sides: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.augment not in AUGMENTATIONS:
            raise ConfigError(f"augment must be one of {', '.join(AUGMENTATIONS)}, got {self.augment!r}")
        if self.cutout < 0:
            raise ConfigError(f"cutout must be at least 0, got {self.cutout}")
        if not 0 <= self.jitter < 1:
            raise ConfigError(f"jitter must be from 0 up to, but not including, 1, got {self.jitter}")
        object.__setattr__(self, "_first_sides", first_sides(len(self.images), self.seed))

    def __len__(self) -> int:
        return max(len(self.images) // self.batch_size, 1)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Array, Array]]:
        """The batches of an epoch from the start-th on: x (B, R, R, 3) float32 and labels (B,)."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.images))
        for k in range(start, len(self)):
            chosen = order[k * self.batch_size : (k + 1) * self.batch_size]
            rng = np.random.default_rng([self.seed, epoch, k])
            yield self._batch(chosen, epoch, rng), self.labels[chosen]

    def _batch(self, chosen: Array, epoch: int, rng: np.random.Generator) -> Array:
        """x (B, R, R, 3) float32 of the chosen images."""
        height, width = self.images.shape[1:3]
        changes = AUGMENTATIONS[self.augment](len(chosen), height, rng)
        if self.alternate_flip:
            changes = changes._replace(flip=self._first_sides[chosen] ^ (epoch % 2 == 1))
        pre = self.preprocess
        holes = draw_holes(len(chosen), pre.resolution, self.cutout, rng) if self.cutout else None
        if (height, width) == (pre.resolution, pre.resolution):
            x = self.ops.augment_batch(self.images, chosen, *changes, pre.mean, pre.std, holes)
        else:
            x = pre(crop_flip(self.images[chosen], *changes))  # moved and mirrored, then scaled
            x = x if holes is None else cutout(x, holes)
        return recolour(x, *draw_colours(len(chosen), self.jitter, rng)) if self.jitter else x


def evaluation_batches(
    images: Array, labels: Array, batch_size: int, preprocess: Preprocessing
) -> Iterator[tuple[Array, Array]]:
    """All images once, in order, the last partial batch included: x (B, R, R, 3) float32 and labels (B,)."""
    for i in range(0, len(images), batch_size):
        yield preprocess(images[i : i + batch_size]), labels[i : i + batch_size]
