"""The calls that an op is graded on: small random inputs, off the kinks, with every option that an op has.

What each case is there to catch: strides 1, 2 and 3; odd and even heights and widths, never equal; both paddings; 3x3,
5x5, 4x3 and 4x5 kernels (only an even one can tell an odd row of padding in front from one behind, and only one that
is not square the two axes); a stride beyond the kernel, where SAME needs no padding; one image, and batch > 1, so that
a sum over the batch shows; equal and different numbers of channels; options left at their defaults; a large eps, so
that where it is added shows; float32, which must stay float32.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tinymnv1.gradcheck.numeric import TOLERANCE
from tinymnv1.gradcheck.spec import OpSpec
from tinymnv1.ops.window import Array

FLOAT32_TOLERANCE = 2e-4
FAR = np.array([[1000.0], [0.0], [-1000.0]])
"""Rows of logits so far apart that exp overflows, and that subtracting the batch's maximum is not enough."""
GAP = 0.1
"""How far inputs keep from a kink, and the values that max pooling compares from each other: far more than the step."""


@dataclass(frozen=True)
class Case:
    """One call.

    label: for the report, such as "stride=2, 5x6".  inputs: the positional arguments in order: arrays and numbers.
    options: the keyword arguments.  backward: whether gradients are compared, too.
    rng_seed: for an op whose last argument is a Generator; each call gets a fresh one from this seed.
    tolerance: the largest relative error that passes.  seed: draws the upstream gradient.
    lures: the mistake that this case is there to show, if it is a single one.
    on_kink: the inputs lie where there is no derivative, and the gradient is the reference's, by the rule for ties.
    """

    label: str
    inputs: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    backward: bool = True
    rng_seed: int | None = None
    tolerance: float = TOLERANCE
    seed: int = 0
    lures: str = ""
    on_kink: bool = False

    def draw(self, shape: tuple[int, ...], dtype: Any = np.float64) -> Array:
        """The random upstream gradient for an output of this shape."""
        return np.random.default_rng([self.seed, 1]).normal(size=shape).astype(dtype)


def case_dtype(case: Case) -> Any:
    """float32 or float64: the dtype of the first input, which the outputs should have, too."""
    return next(iter(case.inputs.values())).dtype


def off_kinks(x: Array, kinks: tuple[float, ...], gap: float = GAP) -> Array:
    """x with every value that lies within `gap` of a kink moved `gap` away from it, on its own side."""
    x = x.copy()
    for kink in kinks:
        near = np.abs(x - kink) < gap
        x[near] = np.where(x[near] < kink, kink - gap, kink + gap)
    return x


def distinct(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Random values of which no two are closer than `GAP`: for max pooling, where a tie is a kink."""
    count = int(np.prod(shape))
    values = (rng.permutation(count) - count / 2) * 2 * GAP + rng.uniform(-GAP / 2, GAP / 2, count)
    return values.reshape(shape)


def cases(spec: OpSpec, seed: int) -> list[Case]:
    """All cases of one op. seed: another one gives other numbers in the same shapes."""
    name = int.from_bytes(hashlib.sha256(spec.name.encode()).digest()[:4], "big")  # hash() differs from run to run
    rng = np.random.default_rng([seed, name])
    return [_seeded(case, [seed, name, k]) for k, case in enumerate(_DRAW[spec.name](rng))]


def _seeded(case: Case, parts: list[int]) -> Case:
    seed = int(np.random.default_rng(parts).integers(2**31))
    inputs = {k: _read_only(v) for k, v in case.inputs.items()}
    rng_seed = None if case.rng_seed is None else seed % 1000
    return replace(case, inputs=inputs, rng_seed=rng_seed, seed=seed)


def _read_only(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value.flags.writeable = False
    return value


def _float32(case: Case) -> Case:
    inputs = {
        k: v.astype(np.float32) if isinstance(v, np.ndarray) and v.dtype == np.float64 else v
        for k, v in case.inputs.items()
    }
    return replace(case, label="float32", inputs=inputs, tolerance=FLOAT32_TOLERANCE)


def _conv2d(rng: np.random.Generator) -> Iterator[Case]:
    n = rng.normal
    first = Case("defaults, 4x5", {"x": n(size=(2, 4, 5, 2)), "w": n(size=(3, 3, 2, 3))})
    yield first
    for label, x, w, stride, padding in (
        ("stride=2, 5x6", (2, 5, 6, 2), (3, 3, 2, 2), 2, "symmetric"),
        ('stride=2, padding="tf", 6x5', (2, 6, 5, 2), (3, 3, 2, 2), 2, "tf"),
        ('stride=3, padding="tf", 4x3 kernel, 7x6', (1, 7, 6, 1), (4, 3, 1, 2), 3, "tf"),
        ("5x5 kernel, 6x5", (1, 6, 5, 1), (5, 5, 1, 2), 1, "symmetric"),
        ('stride=3, padding="tf", 2x1 kernel, 6x7', (1, 6, 7, 1), (2, 1, 1, 2), 3, "tf"),
    ):
        yield Case(label, {"x": n(size=x), "w": n(size=w)}, {"stride": stride, "padding": padding})
    yield Case("stride=2, 4x5 kernel, 7x6", {"x": n(size=(1, 7, 6, 1)), "w": n(size=(4, 5, 1, 2))}, {"stride": 2})
    yield _float32(first)


def _depthwise(rng: np.random.Generator) -> Iterator[Case]:
    n = rng.normal
    first = Case("defaults, 4x5", {"x": n(size=(2, 4, 5, 3)), "w": n(size=(3, 3, 3))})
    yield first
    for label, x, w, stride, padding in (
        ("stride=2, 5x6", (2, 5, 6, 2), (3, 3, 2), 2, "symmetric"),
        ('stride=2, padding="tf", 6x5', (2, 6, 5, 2), (3, 3, 2), 2, "tf"),
        ('stride=3, padding="tf", 4x3 kernel, 7x6', (1, 7, 6, 2), (4, 3, 2), 3, "tf"),
        ("5x5 kernel, 6x5", (1, 6, 5, 2), (5, 5, 2), 1, "symmetric"),
        ('stride=3, padding="tf", 2x1 kernel, 6x7', (1, 6, 7, 2), (2, 1, 2), 3, "tf"),
    ):
        yield Case(label, {"x": n(size=x), "w": n(size=w)}, {"stride": stride, "padding": padding})
    yield Case("stride=2, 4x5 kernel, 7x6", {"x": n(size=(1, 7, 6, 2)), "w": n(size=(4, 5, 2))}, {"stride": 2})
    yield _float32(first)


def _pointwise(rng: np.random.Generator) -> Iterator[Case]:
    n = rng.normal
    yield Case("3 to 4 channels", {"x": n(size=(2, 3, 4, 3)), "w": n(size=(3, 4))})
    square = Case("3 to 3 channels", {"x": n(size=(3, 2, 3, 3)), "w": n(size=(3, 3))})
    yield square
    yield _float32(square)


def _batchnorm(rng: np.random.Generator) -> Iterator[Case]:
    def make(label: str, shape: tuple[int, ...], shift: float, options: dict[str, Any], backward: bool = True) -> Case:
        channels = shape[-1]
        sizes = rng.uniform(0.5, 2, channels) * rng.choice([-1, 1], channels)
        inputs = {
            "x": rng.normal(size=shape) * rng.uniform(0.5, 2, channels) + shift,
            "gamma": sizes,
            "beta": rng.normal(size=channels),
        }
        return Case(label, inputs, options, backward)

    first = make("defaults, 3x4", (2, 3, 4, 3), 0.5, {})
    yield first
    yield make("eps=0.3, 3x3", (3, 3, 3, 2), -1.0, {"eps": 0.3})
    yield make("one image, 4x3", (1, 4, 3, 2), 2.0, {"eps": 1e-3})
    yield _float32(first)
    far = make("float32, mean 10,000 and spread 1", (2, 4, 4, 2), 0.0, {}, backward=False)
    x = (far.inputs["x"] + 10_000).astype(np.float32)
    inputs = {"x": x, "gamma": far.inputs["gamma"].astype("f4"), "beta": far.inputs["beta"].astype("f4")}
    # Loose, since float32 itself holds a mean of 10,000 only to 0.001; E[x^2] - E[x]^2 is wrong by several 100 %.
    yield Case(far.label, inputs, {}, backward=False, tolerance=0.05, lures="variance by E[x^2] - E[x]^2")


def _batchnorm_inference(rng: np.random.Generator) -> Iterator[Case]:
    for label, options in (("defaults, 3x4", {}), ("eps=0.3, 3x4", {"eps": 0.3})):
        inputs = {
            "x": rng.normal(0.5, 2, (2, 3, 4, 3)),
            "gamma": rng.uniform(0.5, 2, 3),
            "beta": rng.normal(size=3),
            "running_mean": rng.normal(size=3),
            "running_var": rng.uniform(0.3, 2, 3),
        }
        case = Case(label, inputs, options)
        yield case
    yield _float32(case)


def _relu(rng: np.random.Generator) -> Iterator[Case]:
    first = Case("4-D", {"x": off_kinks(rng.uniform(-4, 10, (2, 3, 4, 2)), (0, 6))})
    yield first
    yield Case("2-D", {"x": off_kinks(rng.uniform(-4, 10, (5, 7)), (0, 6))})
    yield _float32(first)


def _pool(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("size 2, 4x6", {"x": distinct(rng, (2, 4, 6, 2)), "size": 2})
    yield Case("size 2, 5x3: a row and a column are left over", {"x": distinct(rng, (2, 5, 3, 2)), "size": 2})
    x = distinct(rng, (2, 5, 6, 2))
    x[:, 2, 2] += 2 * x.max()  # one pixel that wins four windows: by chance alone there may be none
    overlap = Case("size 3, stride=2: windows overlap, 5x6", {"x": x, "size": 3}, {"stride": 2})
    yield overlap
    yield Case("size 2, stride=3: gaps, 5x6", {"x": distinct(rng, (1, 5, 6, 2)), "size": 2}, {"stride": 3})
    yield _float32(overlap)


def _maxpool(rng: np.random.Generator) -> Iterator[Case]:
    yield from _pool(rng)
    # What comes out of a ReLU: many windows of equal zeros.
    ties = np.maximum(np.round(rng.normal(size=(2, 4, 6, 2))), 0)
    yield Case("size 2, 4x6, ties: the first one wins", {"x": ties, "size": 2}, on_kink=True)


def _global_avgpool(rng: np.random.Generator) -> Iterator[Case]:
    first = Case("3x4", {"x": rng.normal(size=(2, 3, 4, 3))})
    yield first
    yield Case("one image, 1x1", {"x": rng.normal(size=(1, 1, 1, 3))})
    yield _float32(first)


def _linear(rng: np.random.Generator) -> Iterator[Case]:
    n = rng.normal
    yield Case("3 to 4", {"x": n(size=(5, 3)), "w": n(size=(3, 4)), "b": n(size=4)})
    square = Case("3 to 3", {"x": n(size=(4, 3)), "w": n(size=(3, 3)), "b": n(size=3)})
    yield square
    yield _float32(square)


def _dropout(rng: np.random.Generator) -> Iterator[Case]:
    yield Case("p=0.3", {"x": off_kinks(rng.normal(size=(4, 5, 6)), (0,)), "p": 0.3}, rng_seed=0)
    yield Case("p=0", {"x": off_kinks(rng.normal(size=(3, 4)), (0,)), "p": 0.0}, rng_seed=0)
    # Here the share of zeros is looked at; the gradient of 4,000 elements would only cost time.
    many = {"x": off_kinks(rng.normal(size=(40, 100)), (0,)), "p": 0.2}
    yield Case("p=0.2, 4,000 values", many, backward=False, rng_seed=0)
    yield _float32(Case("", {"x": off_kinks(rng.normal(size=(4, 5)), (0,)), "p": 0.4}, rng_seed=0))


def _softmax(rng: np.random.Generator) -> Iterator[Case]:
    first = Case("4 classes", {"logits": 2 * rng.normal(size=(3, 4))})
    yield first
    logits = FAR + 2 * rng.normal(size=(3, 4))
    yield Case("rows near 1,000, 0 and -1,000", {"logits": logits}, lures="overflow")
    yield _float32(first)


def _softmax_cross_entropy(rng: np.random.Generator) -> Iterator[Case]:
    def make(label: str, n: int, classes: int, shift: Any, options: dict[str, Any], lures: str = "") -> Case:
        logits = shift + 2 * rng.normal(size=(n, classes))
        return Case(label, {"logits": logits, "labels": rng.integers(0, classes, n)}, options, lures=lures)

    yield make("defaults, 4 images, 5 classes", 4, 5, 0, {})
    smooth = make("label_smoothing=0.2", 3, 4, 0, {"label_smoothing": 0.2})
    yield smooth
    yield make("one image", 1, 3, 0, {})
    far = make("rows near 1,000, 0 and -1,000", 3, 4, FAR, {}, lures="overflow")
    far.inputs["logits"][1, far.inputs["labels"][1]] -= 40  # a probability of 1e-18: 1e-12 added to it would show
    yield far
    yield _float32(smooth)


_DRAW = {
    "conv2d": _conv2d,
    "depthwise": _depthwise,
    "pointwise": _pointwise,
    "batchnorm": _batchnorm,
    "batchnorm_inference": _batchnorm_inference,
    "relu": _relu,
    "relu6": _relu,
    "avgpool": _pool,
    "maxpool": _maxpool,
    "global_avgpool": _global_avgpool,
    "linear": _linear,
    "dropout": _dropout,
    "softmax": _softmax,
    "softmax_cross_entropy": _softmax_cross_entropy,
}
