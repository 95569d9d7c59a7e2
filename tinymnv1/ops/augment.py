"""From stored images to a training batch: gather, move, mirror, normalise, cut out, recolour. Nothing here is random.

`tinymnv1.data.augment` draws what happens to each image.
"""

import numpy as np
from numpy.typing import ArrayLike

from tinymnv1.errors import ConfigError
from tinymnv1.ops.window import Array


def crop_flip(images: Array, top: Array, left: Array, flip: Array, reflect: bool = False) -> Array:
    """A window of each image, as large as the image, and mirrored left to right where flip says so.

        y[n, i, j] = images[n, i + top[n], k + left[n]]     with k = j, or W - 1 - j where flip[n]

    Outside the image are zeros (black), or, with reflect, its mirror image: row -1 is row 1, row -2 is row 2, and so on
    for the other sides, as in NumPy's "reflect".

    images: (N, H, W, C) of any dtype.  top, left: (N,) integers, pixels.  flip: (N,) bool.  Returns a new array.
    """
    n, height, width, _ = images.shape
    top, left = top.astype(np.int64), left.astype(np.int64)  # sums of small integers would wrap
    margin = int(max(np.abs(top).max(initial=0), np.abs(left).max(initial=0)))
    margins = (0, 0), (margin, margin), (margin, margin), (0, 0)
    padded = np.pad(images, margins, mode="reflect" if reflect else "constant")
    columns = np.arange(width)
    rows = margin + top[:, None] + np.arange(height)  # (N, H)
    columns = margin + left[:, None] + np.where(flip[:, None], columns[::-1], columns)  # (N, W)
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def normalise(images: Array, mean: ArrayLike, std: ArrayLike) -> Array:
    """(images / 255 - mean) / std in float32. images: (..., C) uint8.  mean, std: (C,), of pixels scaled to [0, 1].

    Raises ConfigError on images of another dtype: they may have been scaled to [0, 1] already.
    """
    if images.dtype != np.uint8:
        raise ConfigError(f"normalise: images must be uint8, from 0 to 255, got {images.dtype}")
    std = np.asarray(std, np.float32)
    x = images * (1 / (255 * std))
    x -= np.asarray(mean, np.float32) / std
    return x


def cutout(x: Array, holes: Array) -> Array:
    """Each image with a rectangle of zeros (DeVries and Taylor 2017, arXiv 1708.04552).

        y[n, a:b, c:d] = 0      with a, b, c, d = holes[n];  elsewhere y = x

    x: (N, H, W, C), normalised: zero is the mean colour.  holes: (N, 4) integers, 0 <= a, b <= H and 0 <= c, d <= W; a
    hole with a >= b or c >= d is empty.  Returns a new array.
    """
    _, height, width, _ = x.shape
    a, b, c, d = holes.T[:, :, None]  # (N, 1) each
    rows, columns = np.arange(height), np.arange(width)
    hole = ((a <= rows) & (rows < b))[:, :, None] & ((c <= columns) & (columns < d))[:, None, :]  # (N, H, W)
    return np.where(hole[..., None], x.dtype.type(0), x)


def recolour(x: Array, contrast: Array, saturation: Array, brightness: Array) -> Array:
    """Each image in other colours.

        grey = mean of the pixel's channels
        y    = contrast * (grey + saturation * (x - grey)) + brightness

    So contrast 0 would leave one colour, saturation 0 a grey picture, and contrast 1, saturation 1 and brightness 0 the
    image as it is.

    x: (N, H, W, C), normalised: contrast is about the mean colour, and brightness in standard deviations.
    contrast, saturation, brightness: (N,).  Returns a new array of x's dtype.
    """
    contrast, saturation, brightness = (
        np.asarray(a, x.dtype)[:, None, None] for a in (contrast, saturation, brightness)
    )  # (N, 1, 1)
    channels = x.shape[3]
    grey = sum(x[..., c] for c in range(channels)) / x.dtype.type(channels)  # (N, H, W); faster than x.mean(axis=3)
    grey *= contrast * (1 - saturation)
    grey += brightness
    y = x * (contrast * saturation)[..., None]
    y += grey[..., None]
    return y


def augment_batch(
    images: Array,
    chosen: Array,
    top: Array,
    left: Array,
    flip: Array,
    reflect: bool,
    mean: ArrayLike,
    std: ArrayLike,
    holes: Array | None = None,
) -> Array:
    """The chosen images, moved, mirrored, normalised and cut out: `crop_flip`, then `normalise`, then `cutout`.

    images: (M, H, W, C) uint8, a whole data set.  chosen: (N,) indices into it.  top, left, flip: (N,), and reflect, as
    for `crop_flip`.  mean, std: (C,), as for `normalise`.  holes: (N, 4), as for `cutout`, or None.
    Returns (N, H, W, C) float32. Raises ConfigError if an index is outside the set, or shapes or dtype do not fit.
    """
    check_batch(images, chosen, top, left, flip, mean, std, holes)
    x = normalise(crop_flip(images[chosen], top, left, flip, reflect), mean, std)
    return x if holes is None else cutout(x, holes)


def check_batch(
    images: Array,
    chosen: Array,
    top: Array,
    left: Array,
    flip: Array,
    mean: ArrayLike,
    std: ArrayLike,
    holes: Array | None,
) -> None:
    """Raise ConfigError unless the arguments of `augment_batch` fit together."""
    if images.ndim != 4 or images.dtype != np.uint8:
        raise ConfigError(f"images must be (M, H, W, C) uint8, got {images.shape} {images.dtype}")
    if not {np.shape(mean), np.shape(std)} <= {images.shape[3:], (1,)}:
        raise ConfigError(f"mean and std must be {images.shape[3:]}, got {np.shape(mean)} and {np.shape(std)}")
    if not (chosen.ndim == 1 and chosen.shape == top.shape == left.shape == flip.shape):
        shapes = ", ".join(str(a.shape) for a in (chosen, top, left, flip))
        raise ConfigError(f"chosen, top, left and flip must have one number an image, got {shapes}")
    if chosen.size and not 0 <= chosen.min() <= chosen.max() < len(images):
        raise ConfigError(f"there are {len(images)} images: cannot take {chosen.min()} to {chosen.max()}")
    if holes is not None:
        height, width = images.shape[1:3]
        if holes.shape != (chosen.size, 4):
            raise ConfigError(f"holes must be ({chosen.size}, 4), got {holes.shape}")
        if (holes < 0).any() or (holes > (height, height, width, width)).any():
            raise ConfigError(f"holes must lie within the image, {height} x {width}")
