"""Engines run a model's own parameters; the trainer does not care which one it drives.

LayerEngine walks the layers. TrainingEngine and InferenceEngine are fused, and need the Numba backend. They are imported
when they are first asked for: Numba takes a second to load.
"""

from typing import TYPE_CHECKING, Any

from tinymnv1.engine.layered import LayerEngine

if TYPE_CHECKING:
    from tinymnv1.engine.inference import InferenceEngine
    from tinymnv1.engine.training import TrainingEngine

__all__ = ["InferenceEngine", "LayerEngine", "TrainingEngine"]


def __getattr__(name: str) -> Any:
    if name == "TrainingEngine":
        from tinymnv1.engine.training import TrainingEngine

        return TrainingEngine
    if name == "InferenceEngine":
        from tinymnv1.engine.inference import InferenceEngine

        return InferenceEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
