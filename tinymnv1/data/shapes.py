"""`shapes`: ten classes of small coloured shapes, drawn by NumPy in seconds. Needs no download.

Every shape is a signed distance function: negative inside, positive outside, in units of the shape's radius. A pixel's
coverage follows from its distance to the edge, which gives smooth (anti-aliased) borders for free. Colour, place, size,
rotation, brightness gradient, clutter and noise are random, so no single pixel says anything about the class: a linear
classifier fails, a convolutional network does not.
"""

from collections.abc import Callable

import numpy as np

from tinymnv1.data.dataset import Dataset, channel_statistics
from tinymnv1.errors import ConfigError
from tinymnv1.ops.window import Array

SIZE = 32
TRAIN, TEST = 20_000, 4_000
TOGETHER = 100
"""Images that are drawn at a time."""


def _box(u: Array, v: Array, half_u: float, half_v: float) -> Array:
    return np.maximum(np.abs(u) - half_u, np.abs(v) - half_v)


def _disc(u: Array, v: Array) -> Array:
    return np.hypot(u, v) - 0.9


def _ring(u: Array, v: Array) -> Array:
    return np.abs(np.hypot(u, v) - 0.74) - 0.2


def _crescent(u: Array, v: Array) -> Array:
    return np.maximum(np.hypot(u, v) - 0.95, 0.8 - np.hypot(u - 0.5, v))


def _square(u: Array, v: Array) -> Array:
    return _box(u, v, 0.74, 0.74)


def _frame(u: Array, v: Array) -> Array:
    return np.abs(_box(u, v, 0.66, 0.66)) - 0.17


def _triangle(u: Array, v: Array) -> Array:
    # Three half planes whose normals stand 120 degrees apart.
    return np.maximum(-v, np.maximum(0.866 * u + 0.5 * v, -0.866 * u + 0.5 * v)) - 0.5


def _star(u: Array, v: Array) -> Array:
    # Fold the plane into one tenth, from a tip (radius 1, angle 0) to a notch (radius 0.42, angle 36 degrees), and
    # measure the distance to the line between the two.
    tenth = np.pi / 5
    angle = np.abs((np.arctan2(v, u) + tenth) % (2 * tenth) - tenth)
    radius = np.hypot(u, v)
    notch_u, notch_v = 0.42 * np.cos(tenth), 0.42 * np.sin(tenth)
    edge = np.hypot(notch_u - 1, notch_v)
    return ((radius * np.cos(angle) - 1) * notch_v - radius * np.sin(angle) * (notch_u - 1)) / edge


def _cross(u: Array, v: Array) -> Array:
    return np.minimum(_box(u, v, 0.95, 0.28), _box(u, v, 0.28, 0.95))


def _bar(u: Array, v: Array) -> Array:
    return _box(u, v, 0.95, 0.26)


def _corner(u: Array, v: Array) -> Array:
    return np.minimum(_box(u + 0.5, v, 0.25, 0.8), _box(u, v + 0.55, 0.75, 0.25))


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "disc": _disc,
    "ring": _ring,
    "crescent": _crescent,
    "square": _square,
    "frame": _frame,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "bar": _bar,
    "corner": _corner,
}


def _column(rng: np.random.Generator, low: float, high: float, count: int) -> Array:
    """(count, 1, 1) uniform numbers, one an image."""
    return rng.uniform(low, high, (count, 1, 1)).astype(np.float32)


def _coverage(distance: Array, radius: Array) -> Array:
    """Share of each pixel inside the shape, from its distance to the edge (in radii)."""
    return np.clip(0.5 - distance * radius, 0, 1)


def _turned(x: Array, y: Array, angle: Array) -> tuple[Array, Array]:
    cos, sin = np.cos(angle), np.sin(angle)
    return cos * x + sin * y, cos * y - sin * x


def _paint(image: Array, colour: Array, share: Array) -> None:
    """Move image, (N, 3, 32, 32), towards colour, (N, 3, 1, 1), by a share of the way in each pixel, (N, 32, 32)."""
    way = colour - image
    way *= share[:, None]
    image += way


def draw(labels: Array, rng: np.random.Generator) -> Array:
    """Draw one image for each label.

    labels: (N,) integers, indices into `SHAPES`.  rng: where colours, places and noise come from.
    Returns (N, 32, 32, 3) uint8.

    First all random numbers but the noise, for all images; then the images, a few at a time, whose planes stay in the
    cache.
    """
    n = len(labels)
    background = rng.uniform(0, 1, (n, 3, 1, 1)).astype(np.float32)
    # The shape's colour differs from the background's by at least 0.35 in every channel, lighter or darker.
    step = rng.uniform(0.35, 0.65, (n, 3, 1, 1)).astype(np.float32)
    foreground = np.where(background < 0.5, background + step, background - step)
    slope = rng.normal(0, 0.006, (2, n, 3, 1, 1)).astype(np.float32)
    strokes = []
    for _ in range(4):
        place = [_column(rng, low, high, n) for low, high in ((1.0, 3.0), (0, SIZE), (0, SIZE), (0, 2 * np.pi))]
        strokes.append((*place, rng.uniform(0, 1, (n, 3, 1, 1)).astype(np.float32)))
    shape = [_column(rng, low, high, n) for low, high in ((7, 12), (-4, 4), (-4, 4), (0, 2 * np.pi))]

    images = np.empty((n, SIZE, SIZE, 3), np.uint8)
    y, x = (axis.astype(np.float32) for axis in np.mgrid[0:SIZE, 0:SIZE])
    for some in (slice(first, first + TOGETHER) for first in range(0, n, TOGETHER)):
        # Planes of a colour, (N, 3, 32, 32): NumPy is several times as slow where the last axis has three numbers.
        image = background[some] + slope[0, some] * (x - SIZE / 2) + slope[1, some] * (y - SIZE / 2)
        for stroke in strokes:  # clutter: short strokes, behind the shape
            radius, right, down, angle, colour = (numbers[some] for numbers in stroke)
            u, v = _turned(x - right, y - down, angle)
            _paint(image, colour, 0.7 * _coverage(_box(u / radius, v / radius, 1.0, 0.45), radius))
        radius, right, down, angle = (numbers[some] for numbers in shape)
        u, v = _turned(x - SIZE / 2 + 0.5 - right, y - SIZE / 2 + 0.5 - down, angle)
        _paint(image, foreground[some], _inside(labels[some], u / radius, v / radius, radius))
        noise = rng.normal(0, 0.05, (len(image), SIZE, SIZE, 3)).astype(np.float32)
        noise += image.transpose(0, 2, 3, 1)
        noise *= 255
        images[some] = np.clip(np.rint(noise, out=noise), 0, 255, out=noise)
    return images


def _inside(labels: Array, u: Array, v: Array, radius: Array) -> Array:
    """The coverage of each image's own shape, (N, 32, 32)."""
    inside = np.empty_like(u)
    for k, distance in enumerate(SHAPES.values()):
        of_class = labels == k
        inside[of_class] = _coverage(distance(u[of_class], v[of_class]), radius[of_class])
    return inside


def load_shapes(train: int = TRAIN, test: int = TEST, seed: int = 0) -> Dataset:
    """Draw the data set: `train` and `test` images, with equally many of each class, the same for the same seed.

    Raises ConfigError if either is below 1.
    """
    if min(train, test) < 1:
        raise ConfigError(f"shapes: needs at least one training and one test image, got {train} and {test}")
    parts = []
    for part, count in enumerate((train, test)):
        rng = np.random.default_rng([seed, part])
        labels = rng.permutation(np.arange(count) % len(SHAPES))
        images = [draw(labels[i : i + 500], rng) for i in range(0, count, 500)]
        parts.append((np.concatenate(images), labels.astype(np.int64)))
    mean, std = channel_statistics(parts[0][0])
    return Dataset("shapes", tuple(SHAPES), *parts[0], *parts[1], mean, std)
