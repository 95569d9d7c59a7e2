"""A training run's settings, and the named sets of them: `python -m tinymnv1.train --recipe NAME`."""

import math
from dataclasses import dataclass, fields
from typing import Any

from tinymnv1.data import AUGMENTATIONS, DATASETS, FOLDER_RESOLUTION, Dataset
from tinymnv1.engine import PRECISIONS, fastest_precision
from tinymnv1.errors import ConfigError
from tinymnv1.model import INITS, MAX_WIDTH

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "step", "cosine", "one-cycle")
MAX_RESOLUTION = 4096
"""Pixels: far more than any machine trains on, and few enough that no size of an array overflows."""

MAX_EPOCHS = 1_000_000

CHOICES = {
    "data": DATASETS,
    "padding": ("symmetric", "tf"),
    "activation": ("relu6", "relu"),
    "init": INITS,
    "backend": ("numba", "numpy"),
    "engine": ("fused", "layers"),
    "precision": ("auto", *PRECISIONS),
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "augment": tuple(AUGMENTATIONS),
}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run's result. The defaults are the recipe `quick`.

    data, data_dir: see `tinymnv1.data.load_dataset`.  resolution: pixels; 0 means the data's own (64 for a folder).
    limit: of the number of training images, and of test images; 0 means all.
    validation: how many training images are held out, for the run to be evaluated on instead of on the test images
    (`Dataset.with_validation`); 0 means none.
    early_resolution: pixels in the first epochs // 2 epochs, which take less time then; 0 means the same as later
    (progressive learning: Tan and Le 2021, arXiv 2104.00298, section 4).
    normalise: subtract the training pixels' mean and divide by their standard deviation.
    augment, cutout, alternate_flip, jitter: see `tinymnv1.data.TrainingBatches`.
    width, stem_stride, padding, activation, dropout, init, identity, backend: of the model; stem_stride 0 means 1 up to
    64 pixels and 2 above.  engine: "fused" or "layers"; the numpy backend always walks the layers.
    precision: of the factors of the fused engine's pointwise products, "float32" or "bfloat16" (`TrainingEngine`); or
    "auto", which becomes one of them when a run begins (`effective_precision`).
    epochs: passes over the training images.  batch_size: images per step.  optimizer: a name in OPTIMIZERS.
    lr: the schedule's highest.  momentum, nesterov: SGD's.  weight_decay: see `tinymnv1.optim`.
    schedule: of the learning rate over the run's steps.  warmup: epochs over which it first rises from zero.
    label_smoothing: see `tinymnv1.ops.softmax_cross_entropy`.  clip_norm: limit of the gradient's norm; 0 means none.
    ema_decay: of the average of the weights (`tinymnv1.averaging.WeightAverage`), which is evaluated and saved in their
    place; 0 means that there is none.
    evaluate_every: epochs from one evaluation to the next; the last epoch is always evaluated.
    seed: of the initial weights, the order of the images, the augmentation, dropout's masks, and which images `limit`
    takes, test images as well. Which ones `validation` holds out does not depend on it.
    """

    data: str = "shapes"
    data_dir: str = ""
    resolution: int = 0
    early_resolution: int = 0
    limit: int = 0
    validation: int = 0
    normalise: bool = True
    augment: str = "flip"
    cutout: int = 0
    alternate_flip: bool = False
    jitter: float = 0.0
    width: float = 0.25
    stem_stride: int = 0
    padding: str = "symmetric"
    activation: str = "relu6"
    dropout: float = 0.0
    init: str = "slim"
    identity: float = 0.0
    backend: str = "numba"
    engine: str = "fused"
    precision: str = "float32"
    epochs: int = 3
    batch_size: int = 48
    optimizer: str = "adamw"
    lr: float = 8e-3
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: str = "one-cycle"
    warmup: float = 0.0
    label_smoothing: float = 0.0
    clip_norm: float = 0.0
    ema_decay: float = 0.0
    evaluate_every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if (value := getattr(self, name)) not in allowed:
                raise ConfigError(f"--{name} must be one of {', '.join(allowed)}, got {value!r}")
        for name, low in (
            ("epochs", 1),
            ("batch_size", 1),
            ("evaluate_every", 1),
            ("resolution", 0),
            ("early_resolution", 0),
            ("limit", 0),
            ("validation", 0),
            ("cutout", 0),
            ("stem_stride", 0),
        ):
            if (value := getattr(self, name)) < low:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least {low}, got {value}")
        if self.resolution > MAX_RESOLUTION:
            raise ConfigError(f"--resolution must be at most {MAX_RESOLUTION} pixels, got {self.resolution}")
        if self.epochs > MAX_EPOCHS:
            raise ConfigError(f"--epochs must be at most {MAX_EPOCHS}, got {self.epochs}")
        if self.stem_stride > self.effective_resolution():
            raise ConfigError(
                f"--stem-stride must be at most the run's {self.effective_resolution()} pixels, got {self.stem_stride}"
            )
        for name, low, high in (
            ("lr", 0, math.inf),
            ("identity", 0, math.inf),
            ("weight_decay", 0, math.inf),
            ("warmup", 0, math.inf),
            ("clip_norm", 0, math.inf),
            ("label_smoothing", 0, 1),
            ("momentum", 0, 1),
            ("dropout", 0, 1),
            ("jitter", 0, 1),
            ("ema_decay", 0, 1),
        ):
            if not low <= (value := getattr(self, name)) < high:
                limit = "finite and at least 0" if high == math.inf else f"from {low} up to, but not including, {high}"
                raise ConfigError(f"--{name.replace('_', '-')} must be {limit}, got {value}")
        if not 0 < self.width <= MAX_WIDTH:
            raise ConfigError(f"--width must be above 0 and at most {MAX_WIDTH}, got {self.width}")
        if self.seed < 0:
            raise ConfigError(f"--seed must be at least 0, got {self.seed}")
        if self.precision == "bfloat16" and (self.engine, self.backend) != ("fused", "numba"):
            raise ConfigError("--precision bfloat16 needs --engine fused and --backend numba; use --precision float32")
        if self.optimizer == "sgd" and self.nesterov and self.momentum == 0:
            raise ConfigError("--nesterov needs a --momentum above 0; add --no-nesterov")
        if self.early_resolution > self.effective_resolution():
            raise ConfigError(
                f"--early-resolution must be at most the run's {self.effective_resolution()} pixels,"
                f" got {self.early_resolution}; 0 means none"
            )
        if self.cutout > self.effective_resolution():
            raise ConfigError(
                f"--cutout must be at most the run's {self.effective_resolution()} pixels, got {self.cutout}"
            )
        if self.warmup > self.epochs:
            raise ConfigError(f"--warmup must be at most the run's {self.epochs} epochs, got {self.warmup:g}")
        if self.alternate_flip and not self.augment.endswith("flip"):
            raise ConfigError(
                f"--alternate-flip needs an --augment that flips, not {self.augment}; add --no-alternate-flip"
            )

    def effective_resolution(self) -> int:
        """Pixels of a training image."""
        return self.resolution or (FOLDER_RESOLUTION if self.data == "folder" else 32)

    def effective_stem_stride(self) -> int:
        """The stem's stride: as asked for, or 1 up to 64 pixels (the CIFAR form) and 2 above."""
        return self.stem_stride or (1 if self.effective_resolution() <= 64 else 2)

    def effective_precision(self) -> str:
        """As asked for; "auto" is bfloat16 where the engine knows it and this processor multiplies it, else float32."""
        if self.precision != "auto":
            return self.precision
        return fastest_precision() if (self.engine, self.backend) == ("fused", "numba") else "float32"

    def part_of(self, dataset: Dataset) -> Dataset:
        """What a run uses of a data set: validation images held out, and both parts limited."""
        if self.validation:
            dataset = dataset.with_validation(self.validation)
        return dataset.limited(self.limit, self.seed) if self.limit else dataset


CIFAR10: dict[str, Any] = {
    "data": "cifar10",
    "early_resolution": 24,
    "augment": "reflect-crop-flip",
    "alternate_flip": True,
    "init": "fan-in",
    "identity": 0.577,  # 1 / sqrt(3): as long as a column of such an initial matrix
    "precision": "auto",
    "batch_size": 128,
    "optimizer": "sgd",
    "lr": 0.3,
    "weight_decay": 2.5e-4,
    "label_smoothing": 0.1,
}
"""What `cifar10-fast` and `cifar10-record` have in common."""

RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "quick": ("the default: `shapes`, width 0.25, AdamW, 3 epochs; about a minute on two cores", {}),
    "seed": (
        "CIFAR-10 the way introductory articles train it: resized to 224 pixels, scaled to [0, 1], Adam. Two hours on"
        " two cores: try it with --limit 256",
        {
            "data": "cifar10",
            "resolution": 224,
            "normalise": False,
            "augment": "none",
            "width": 1.0,
            "epochs": 5,
            "batch_size": 64,
            "optimizer": "adam",
            "lr": 1e-3,
            "weight_decay": 0.0,
            "schedule": "constant",
        },
    ),
    "cifar10-fast": (
        "CIFAR-10, sized for ten minutes on two cores with AVX-512 BF16: half the channels, 23 epochs",
        CIFAR10 | {"width": 0.5, "epochs": 23, "ema_decay": 0.995, "evaluate_every": 8},
    ),
    "cifar10-record": (
        "CIFAR-10, sized for 75 minutes on two cores with AVX-512 BF16: width 1.0, 52 epochs, images enlarged to 40"
        " pixels",
        CIFAR10
        | {
            "resolution": 40,
            "cutout": 10,
            "jitter": 0.2,
            "width": 1.0,
            "dropout": 0.2,
            "epochs": 52,
            "ema_decay": 0.999,
            "evaluate_every": 13,
        },
    ),
}
"""Name -> (what it is, the settings that differ from `TrainConfig`'s defaults)."""

FIELDS = {field.name: field for field in fields(TrainConfig)}


def make_config(recipe: str, **overrides: Any) -> TrainConfig:
    """A recipe with some settings replaced. Raises ConfigError on an unknown recipe or a setting that cannot work."""
    if recipe not in RECIPES:
        raise ConfigError(f"--recipe must be one of {', '.join(RECIPES)}, got {recipe!r}")
    config = TrainConfig(**(RECIPES[recipe][1] | overrides))
    if config.optimizer != "sgd" and (given := sorted(overrides.keys() & {"momentum", "nesterov"})):
        flag = f"--{'no-' if overrides[given[0]] is False else ''}{given[0]}"
        raise ConfigError(f"{flag} is a setting of SGD, not of {config.optimizer}; add --optimizer sgd")
    return config


def recipe_table() -> str:
    """The settings that recipes differ in, a row each and a column a recipe."""
    names = [name for name in FIELDS if any(name in settings for _, settings in RECIPES.values())]
    configs = [make_config(recipe) for recipe in RECIPES]
    rows = [["", *RECIPES]]
    for name in names:
        rows.append([name.replace("_", "-"), *(shown(getattr(config, name)) for config in configs)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def shown(value: Any) -> str:
    """A setting as people read it: yes, no, 0.001, none for an empty text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"
