"""Engines run a model's own parameters; the trainer does not care which one it drives."""

from tinymnv1.engine.layered import LayerEngine

__all__ = ["LayerEngine"]
