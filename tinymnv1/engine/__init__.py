"""Engines run a model's own parameters; the trainer does not care which one it drives.

LayerEngine walks the layers. TrainingEngine and InferenceEngine are fused, and need the Numba backend. Those two are
imported when they are first asked for: Numba takes a second to load.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Union

from tinymnv1.engine.layered import LayerEngine
from tinymnv1.errors import ConfigError
from tinymnv1.model import MobileNetV1
from tinymnv1.ops.window import Array

if TYPE_CHECKING:
    from tinymnv1.engine.inference import InferenceEngine
    from tinymnv1.engine.training import TrainingEngine

__all__ = [
    "PRECISIONS",
    "InferenceEngine",
    "LayerEngine",
    "TrainingEngine",
    "fastest_precision",
    "inference_engine",
    "training_engine",
]


PRECISIONS = ("float32", "bfloat16")
"""Of the factors of the fused training engine's pointwise products."""


def __getattr__(name: str) -> Any:
    if name == "TrainingEngine":
        from tinymnv1.engine.training import TrainingEngine

        return TrainingEngine
    if name == "InferenceEngine":
        from tinymnv1.engine.inference import InferenceEngine

        return InferenceEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def fastest_precision() -> str:
    """Of PRECISIONS, the one in which the fused engine trains faster on this processor."""
    from tinymnv1.kernels import simd

    return "bfloat16" if simd.multiplies_bfloat16() else "float32"


def training_engine(
    model: MobileNetV1, fused: bool = True, precision: str = "float32"
) -> Union["TrainingEngine", LayerEngine]:
    """The engine to train a model with: the fused one, if it is wanted and the model's backend is "numba".

    precision: see `TrainingEngine`. Raises ConfigError if it is another than float32 and the layers are to train.
    """
    if fused and model.backend == "numba":
        from tinymnv1.engine.training import TrainingEngine

        return TrainingEngine(model, precision)
    if precision != "float32":
        raise ConfigError(f'the layers train in float32, got {precision!r}; use the fused engine and backend="numba"')
    return LayerEngine(model)


def inference_engine(model: MobileNetV1) -> Callable[[Array], Array]:
    """The engine to evaluate a model as it is now: the fused one, if its backend is "numba"."""
    if model.backend == "numba":
        from tinymnv1.engine.inference import InferenceEngine

        return InferenceEngine(model)
    return LayerEngine(model)
