"""Data sets and batches: `shapes` (drawn on the spot), `cifar10` (from disk or downloaded), `folder` (your images)."""

from pathlib import Path

from tinymnv1.data.augment import AUGMENTATIONS, Changes, Colours, draw_changes, draw_colours, draw_holes, first_sides
from tinymnv1.data.batches import Preprocessing, TrainingBatches, evaluation_batches, resize
from tinymnv1.data.cifar10 import load_cifar10
from tinymnv1.data.dataset import Dataset, channel_statistics
from tinymnv1.data.folder import load_folder, read_image
from tinymnv1.data.shapes import load_shapes
from tinymnv1.errors import ConfigError

DATASETS = ("shapes", "cifar10", "folder")
FOLDER_RESOLUTION = 64
"""Pixels that your own images are scaled to when nothing else is asked for."""

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "Changes",
    "Colours",
    "Dataset",
    "Preprocessing",
    "TrainingBatches",
    "channel_statistics",
    "draw_changes",
    "draw_colours",
    "draw_holes",
    "evaluation_batches",
    "first_sides",
    "load_cifar10",
    "load_dataset",
    "load_folder",
    "load_shapes",
    "read_image",
    "resize",
]


def load_dataset(name: str, data_dir: Path | None = None, resolution: int | None = None) -> Dataset:
    """Load a data set by name: "shapes", "cifar10" or "folder".

    data_dir: where it lies; required for "folder", optional for "cifar10", not taken by "shapes".
    resolution: pixels that the images of a folder are scaled to as they are read (default 64); the other two keep
    their 32, and whoever trains on them scales them (`Preprocessing`, `trainer.scaled_once`).
    Raises ConfigError or DataError.
    """
    if name == "shapes":
        if data_dir is not None:
            raise ConfigError("--data-dir goes with --data cifar10 or --data folder; shapes are drawn, not read")
        return load_shapes()
    if name == "cifar10":
        return load_cifar10(data_dir)
    if name == "folder":
        if data_dir is None:
            raise ConfigError("--data folder needs --data-dir FOLDER, with one sub-folder of images for each class")
        return load_folder(data_dir, resolution or FOLDER_RESOLUTION)
    raise ConfigError(f"data must be one of {', '.join(DATASETS)}, got {name!r}")
