"""The folder of a run: making a new one, and getting the trained model out of one."""

import os
from dataclasses import dataclass
from pathlib import Path

from tinymnv1.checkpoint import load_checkpoint, with_prefix
from tinymnv1.data import Preprocessing
from tinymnv1.errors import CheckpointError, ConfigError
from tinymnv1.model import MobileNetV1
from tinymnv1.recipes import TrainConfig


@dataclass(frozen=True)
class TrainedModel:
    """What a checkpoint gives to someone who only wants to use the model."""

    model: MobileNetV1
    preprocess: Preprocessing
    classes: tuple[str, ...]
    config: TrainConfig
    epoch: int
    path: Path


def load_trained(run: Path, which: str = "best") -> TrainedModel:
    """The model of a run's folder ("best" or "last" checkpoint), or of a checkpoint file.

    Raises CheckpointError if there is none, or if it is damaged.
    """
    path = run / f"{which}.safetensors" if run.is_dir() else run
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint; give a folder that tinymnv1.train wrote, such as runs/NAME")
    arrays, meta = load_checkpoint(path)
    model = MobileNetV1(**meta["model"])
    model.load_state_dict(with_prefix(arrays, "model."))
    preprocessing = meta["preprocessing"]
    return TrainedModel(
        model,
        Preprocessing(preprocessing["resolution"], tuple(preprocessing["mean"]), tuple(preprocessing["std"])),
        tuple(meta["classes"]),
        TrainConfig(**meta["config"]),
        meta["position"]["epoch"],
        path,
    )


def new_run_folder(out: Path) -> Path:
    """Create the folder of a new run. Raises ConfigError if it holds a run already or cannot be written."""
    check_run_folder(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be created ({error.strerror}); choose another --out") from error
    return out


def check_run_folder(out: Path) -> None:
    """Raise ConfigError if a new run cannot go to `out`. Called before the data is loaded; creates nothing."""
    if (out / "last.safetensors").exists():
        raise ConfigError(f"{out}: holds a run already; continue it with --resume {out}, or choose another --out")
    parent = out
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise ConfigError(f"{out}: {parent} is a file, not a folder; choose another --out")
    if not os.access(parent, os.W_OK):
        raise ConfigError(f"{out}: {parent} cannot be written to; choose another --out")


def next_run_folder(parent: Path, stem: str) -> Path:
    """The first of parent/stem-1, parent/stem-2, ... that does not exist."""
    number = 1
    while (parent / f"{stem}-{number}").exists():
        number += 1
    return parent / f"{stem}-{number}"
