"""Twins of one network for the engines' tests, and a judge: the NumPy backend in float64 on given branches of ReLU6.

Float32 and float64 take different branches where a value lies on a kink, and from there on their gradients differ by
percents, whoever computes them. So the judge is told which branch each value takes. It says itself how far from the
kink a value was that it would have sent elsewhere, so a wrong branch is not forgiven, only one within rounding.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numeric import relative_error

from tinymnv1 import MobileNetV1, softmax_cross_entropy
from tinymnv1.engine import TrainingEngine
from tinymnv1.kernels.blocks import COEFFICIENTS, SCALE, SHIFT
from tinymnv1.layers import Activation

Array = np.ndarray[Any, Any]


def make_model(backend: str = "numba", seed: int = 0, off_kinks: bool = False, **settings: Any) -> MobileNetV1:
    """A network with batch norms and running statistics away from their initial 1 and 0.

    The same seed and settings give the same weights with either backend: those of "numpy" are float32 numbers, too.
    off_kinks: channels lie well below 0, between 0 and 6, or well above 6, and no value comes near a kink.
    """
    dtype = np.float64 if backend == "numpy" else np.float32
    model = MobileNetV1(backend=backend, dtype=dtype, rng=seed, **{"num_classes": 10, "stem_stride": 1} | settings)
    rng = np.random.default_rng(seed)
    state = model.state_dict()
    for name, array in state.items():
        if name.endswith("gamma"):
            array[...] = rng.uniform(0.1, 0.3, array.shape) if off_kinks else rng.uniform(0.5, 1.5, array.shape)
        elif name.endswith("beta") and off_kinks:
            array[...] = rng.choice([3.0, -3.0, 9.0], array.shape, p=[0.8, 0.1, 0.1])
        elif name.endswith(("beta", "bias", "running_mean")):
            array[...] = rng.normal(0, 0.2, array.shape)
        elif name.endswith("running_var"):
            array[...] = rng.uniform(0.5, 2, array.shape)
    model.load_state_dict({name: array.astype(np.float32) for name, array in state.items()})
    return model


def images(n: int, h: int, w: int, channels: int = 3, classes: int = 10, seed: int = 1) -> tuple[Array, Array]:
    """Normal numbers, float32, and random labels."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, h, w, channels)).astype(np.float32), rng.integers(0, classes, n)


def branch(x: Array, activation: str = "relu6") -> Array:
    """Which of ReLU6's three branches (or ReLU's two) each value takes: 0, 1 or 2."""
    return (x > 0).astype(np.int8) + (x >= (6 if activation == "relu6" else np.inf))


def activations(model: MobileNetV1) -> list[Activation]:
    """The activation layers, from the stem on."""
    chains = [model.stem, *model.blocks]
    return [layer for chain in chains for layer in chain.layers.values() if isinstance(layer, Activation)]


def branches_of_layers(model: MobileNetV1) -> list[Array]:
    """The branches taken in the training forward pass just done (its backward must still be to come)."""
    return [branch(layer.cache, model.config.activation) for layer in activations(model)]


def branches_of_engine(engine: TrainingEngine, shape: tuple[int, ...]) -> list[Array]:
    """The branches that the fused engine took in its last step, on images (N, H, W, C) of this shape."""
    plan = engine._plans[shape[:3]]
    result = []
    for stage in (plan.stem, *plan.stages):
        z = stage.z[: stage.rows * stage.padded_channels].reshape(
            stage.images, stage.height, stage.width, stage.padded_channels
        )
        bn = stage.bn.reshape(COEFFICIENTS, stage.padded_channels)
        y = z * bn[SCALE] + bn[SHIFT]
        result.append(branch(y[..., : stage.channels], engine.model.config.activation))
    return result


@dataclass
class Step:
    """What one training step gave."""

    loss: float
    logits: Array
    gradients: dict[str, Array]
    statistics: dict[str, Array]
    off_by: float = 0.0
    """The largest distance from a kink of a value that float64 would have sent along another branch."""

    def errors(self, judge: "Step") -> dict[str, float]:
        """The relative error of each parameter's gradient."""
        return {name: relative_error(g, judge.gradients[name]) for name, g in self.gradients.items()}


def result(model: MobileNetV1, loss: float, logits: Array, off_by: float = 0.0) -> Step:
    """The step that the model has just done, copied."""
    gradients = {name: p.grad.copy() for name, p in model.parameters()}
    statistics = {name: array.copy() for name, array in model.net.named_buffers()}
    return Step(loss, logits.copy(), gradients, statistics, off_by)


def layers_step(model: MobileNetV1, x: Array, labels: Array, smoothing: float = 0.0) -> tuple[Step, list[Array]]:
    """A training step by the model's layers, and the branches it took."""
    logits = model.forward(x, train=True)
    branches = branches_of_layers(model)
    loss, dlogits = softmax_cross_entropy(logits, labels, smoothing)
    model.backward(dlogits)
    return result(model, loss, logits), branches


def judge_step(model: MobileNetV1, x: Array, labels: Array, branches: list[Array], smoothing: float = 0.0) -> Step:
    """A training step of a float64 model in which every value takes the branch that it is told."""
    off_by = [0.0]
    for layer, which in zip(activations(model), branches, strict=True):

        def forward(y: Array, which: Array = which) -> tuple[Array, Array]:
            elsewhere = branch(y, model.config.activation) != which
            off_by.append(np.minimum(np.abs(y), np.abs(y - 6))[elsewhere].max(initial=0))
            return np.choose(which, [0.0, y, 6.0]), which == 1

        layer._forward = forward
        layer._backward = np.multiply
    logits = model.forward(x.astype(np.float64), train=True)
    loss, dlogits = softmax_cross_entropy(logits, labels, smoothing)
    model.backward(dlogits)
    return result(model, loss, logits, max(off_by))
