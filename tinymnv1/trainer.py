"""The training loop, and the folder that a run leaves behind. It prints nothing: callers pass callbacks.

runs/<name>/config.json         the settings, for people
            metrics.csv         a row an epoch, or one for several with --evaluate-every
            last.safetensors    everything that --resume needs: after every epoch, every few minutes, and on a stop
            previous.safetensors  the one before it, should it be damaged
            best.safetensors    the same, at the epoch with the best test accuracy
            curves.png confusion.png predictions.png
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tinymnv1.averaging import WeightAverage
from tinymnv1.checkpoint import with_prefix
from tinymnv1.data import Dataset, Preprocessing, TrainingBatches, evaluation_batches, resize
from tinymnv1.engine import inference_engine, training_engine
from tinymnv1.errors import DivergedError
from tinymnv1.model import MobileNetV1
from tinymnv1.ops import softmax, softmax_cross_entropy
from tinymnv1.ops.window import Array
from tinymnv1.optim import SGD, Adam, AdamW, Optimizer, clip_gradient_norm
from tinymnv1.recipes import TrainConfig
from tinymnv1.runs import BEST, LAST, check_same_run, clear_away, save_run, write_metrics, write_run_file
from tinymnv1.schedules import Schedule, constant, cosine, one_cycle, step_decay, warmup

COLUMNS = (
    "epoch",
    "step",
    "lr",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "images_per_second",
    "seconds",
)
Row = dict[str, float]


class Interrupted(Exception):
    """Training stopped because it was asked to; the run can be resumed."""


@dataclass
class Position:
    """Where a run stands, and the sums since the last row of its metrics."""

    epoch: int = 0  # finished epochs
    batch: int = 0  # finished batches of the next one
    step: int = 0  # optimizer steps in all
    loss_sum: float = 0.0  # over the images since that row
    correct: int = 0
    images: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Evaluation:
    """loss: mean cross-entropy in nats.  accuracy: in [0, 1].  probabilities: (N, classes)."""

    loss: float
    accuracy: float
    probabilities: Array


def evaluate(
    engine: Callable[[Array], Array],
    images: Array,
    labels: Array,
    preprocess: Preprocessing,
    batch_size: int = 128,
    on_batch: Callable[[int], None] = lambda images: None,
) -> Evaluation:
    """Run every image through the model in evaluation mode.

    engine: takes x (N, R, R, 3) float32, gives logits (N, classes).  images: (N, H, W, 3) uint8.  labels: (N,).
    on_batch: called after each batch with its number of images.
    """
    logits = []
    for x, _ in evaluation_batches(images, labels, batch_size, preprocess):
        logits.append(engine(x))
        on_batch(len(x))
    together = np.concatenate(logits)
    loss, _ = softmax_cross_entropy(together, labels)
    accuracy = float((together.argmax(axis=1) == labels).mean())
    return Evaluation(loss, accuracy, softmax(together))


def flip_averaged(engine: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """An engine that gives the mean of the logits of each image and of its mirror image, left to right.

    It takes twice the time (Simonyan and Zisserman 2015, arXiv 1409.1556, section 3.2, who average probabilities).
    """
    return lambda x: (engine(x) + engine(x[:, :, ::-1])) / 2


def make_optimizer(config: TrainConfig, model: MobileNetV1) -> Optimizer:
    """The optimizer that a configuration names, on the model's parameters."""
    if config.optimizer == "sgd":
        return SGD(model.parameters(), config.lr, config.momentum, config.nesterov, config.weight_decay)
    kind = {"adam": Adam, "adamw": AdamW}[config.optimizer]
    return kind(model.parameters(), config.lr, weight_decay=config.weight_decay)


def make_schedule(config: TrainConfig, steps_per_epoch: int) -> Schedule:
    """The learning rate of each step. "step" divides it by 10 after half and after three quarters of the run."""
    total = config.epochs * steps_per_epoch
    schedules: dict[str, Callable[[], Schedule]] = {
        "constant": lambda: constant(config.lr),
        "step": lambda: step_decay(config.lr, sorted({total // 2, total * 3 // 4} - {0})),
        "cosine": lambda: cosine(config.lr, total),
        "one-cycle": lambda: one_cycle(config.lr, total),
    }
    return warmup(schedules[config.schedule](), round(config.warmup * steps_per_epoch))


def make_preprocessing(config: TrainConfig, dataset: Dataset) -> Preprocessing:
    """What every image of a run goes through."""
    if config.normalise:
        return Preprocessing(config.effective_resolution(), dataset.mean, dataset.std)
    return Preprocessing(config.effective_resolution(), (0.0,) * 3, (1.0,) * 3)


SCALED_BYTES = 1 << 30
"""Up to so much memory is taken for training images that are scaled before a run; for the smaller early ones, too."""


def scaled_once(images: Array, resolution: int) -> Array:
    """The images at a run's resolution, so that it need not scale each of them again and again, and then augment them
    at that size. Where they would take more than SCALED_BYTES, the images as they are: each batch scales its own.
    """
    size = len(images) * resolution * resolution * images.shape[3]
    return resize(images, resolution) if size <= SCALED_BYTES else images


class Trainer:
    """One run: `fit()` trains from where the run stands to its end.

    dataset: already limited as the configuration says.  folder: must exist; the run's files go there.
    checkpoint_seconds: besides after every epoch, the state is saved at the first step so long after the last save.
    on_step: called after every step with the trainer and the step's loss.  on_epoch: called with each new row.
    on_evaluate: called during the test after each batch with its number of images.
    Set `stop_requested` (from a callback or a signal handler) to make `fit` save after the current step, or the current
    batch of an evaluation, and raise Interrupted.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        folder: Path,
        checkpoint_seconds: float = 300.0,
        on_step: Callable[["Trainer", float], None] = lambda trainer, loss: None,
        on_epoch: Callable[[Row], None] = lambda row: None,
        on_evaluate: Callable[[int], None] = lambda images: None,
    ) -> None:
        config = replace(config, precision=config.effective_precision())  # a run keeps it, wherever it is resumed
        self.config, self.dataset, self.folder = config, dataset, folder
        self.checkpoint_seconds = checkpoint_seconds
        self.on_step, self.on_epoch, self.on_evaluate = on_step, on_epoch, on_evaluate
        self.model = MobileNetV1(
            num_classes=len(dataset.classes),
            width=config.width,
            stem_stride=config.effective_stem_stride(),
            padding=config.padding,
            dropout=config.dropout,
            activation=config.activation,
            backend=config.backend,
            rng=config.seed,
            init=config.init,
            identity=config.identity,
        )
        self.engine = training_engine(self.model, config.engine == "fused", config.precision)
        self.optimizer = make_optimizer(config, self.model)
        self.preprocess = make_preprocessing(config, dataset)
        self.batches = TrainingBatches(
            scaled_once(dataset.train_images, self.preprocess.resolution),
            dataset.train_labels,
            config.batch_size,
            self.preprocess,
            config.augment,
            config.seed,
            self.model.buffer.ops,
            config.cutout,
            config.alternate_flip,
            config.jitter,
        )
        self._check_last_map()
        self._early_batches: TrainingBatches | None = None
        self.average = WeightAverage(self.model, config.ema_decay) if config.ema_decay else None
        self.schedule = make_schedule(config, len(self.batches))
        self.fingerprint = dataset.fingerprint()
        self.position = Position()
        self.history: list[Row] = []
        self.stop_requested = False
        self.saved_at = time.monotonic()

    def _check_last_map(self) -> None:
        """Raise ConfigError if the last blocks' batch norms would see one value a channel: before anything is saved."""
        early = self.config.early_resolution if self.config.epochs > 1 else 0
        size = early or self.preprocess.resolution  # the smallest images come first
        self.model.check_statistics(min(self.config.batch_size, len(self.dataset.train_labels)), size, size)

    def _small_batches(self) -> TrainingBatches:
        """The same batches at the early resolution."""
        small = self.config.early_resolution
        images = scaled_once(self.dataset.train_images, small)
        hole = self.config.cutout and max(round(self.config.cutout * small / self.preprocess.resolution), 1)
        return replace(self.batches, images=images, preprocess=replace(self.preprocess, resolution=small), cutout=hole)

    def batches_of(self, epoch: int) -> TrainingBatches:
        """What the epoch (from 0) trains on: the first half of the run may use a lower resolution."""
        if not self.config.early_resolution or epoch >= self.config.epochs // 2:
            self._early_batches = None  # their images are a copy: free it
            return self.batches
        if self._early_batches is None:
            self._early_batches = self._small_batches()
        return self._early_batches

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.config.epochs * len(self.batches)

    @property
    def trained_model(self) -> MobileNetV1:
        """What the run is for: the model with the average of the weights, or else the model that is trained."""
        return self.average.model if self.average else self.model

    def fit(self) -> Evaluation:
        """Train to the end; returns the last evaluation on the data set's test images.

        Raises DivergedError when the loss is no longer a finite number (the last checkpoint is from before that),
        Interrupted after a requested stop, CheckpointError if a file cannot be written.
        """
        clear_away(self.folder)
        if self.position.step == 0:
            self._save(LAST)  # so that there is a good checkpoint to keep from the very first step on
        else:
            self._write_metrics()  # if the run was killed between its last checkpoint and this
        write_run_file(self.folder / "config.json", json.dumps(asdict(self.config), indent=2).encode())
        result = None
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # a diverging run is reported below
            while self.position.epoch < self.config.epochs:
                self._train_epoch()
                result = self._finish_epoch()
        return result or self._evaluate()

    def train_on(self, x: Array, labels: Array, lr: float) -> tuple[float, Array]:
        """One optimizer step at the learning rate `lr`: the batch's loss and logits (B, classes), from before the step.

        If the loss is not a finite number, the parameters stay as they are.
        """
        self.optimizer.lr = lr
        loss, logits = self.engine.forward_backward(x, labels, self.config.label_smoothing)
        if math.isfinite(loss):
            if self.config.clip_norm:
                clip_gradient_norm(self.model.parameters(), self.config.clip_norm)
            self.optimizer.step()
        return loss, logits

    def _train_epoch(self) -> None:
        at = self.position
        started = time.perf_counter()
        for x, labels in self.batches_of(at.epoch).epoch(at.epoch, at.batch):
            loss, logits = self.train_on(x, labels, self.schedule(at.step))
            if not math.isfinite(loss):
                raise self._diverged(f"the loss became {loss} at step {at.step + 1} (epoch {at.epoch + 1})")
            at.step += 1
            if self.average:
                self.average.update(at.step)
            at.batch += 1
            at.images += len(labels)
            at.loss_sum += loss * len(labels)
            at.correct += int((logits.argmax(axis=1) == labels).sum())
            now = time.perf_counter()  # making the batch, and what the callback did after the last one, count too
            at.seconds, started = at.seconds + now - started, now
            self.on_step(self, loss)
            self._stop_if_requested()
            if time.monotonic() - self.saved_at >= self.checkpoint_seconds:
                self._save(LAST)

    def _stop_if_requested(self) -> None:
        if self.stop_requested:
            try:
                self._save(LAST)
            finally:
                self.stop_requested = False  # it is done: `fit` may be called again
            raise Interrupted

    def _finish_epoch(self) -> Evaluation | None:
        at = self.position
        done = at.epoch + 1
        if done % self.config.evaluate_every and done < self.config.epochs:
            at.epoch, at.batch = done, 0  # its sums stay, and go into the next row
            self._save(LAST)
            return None
        started = time.perf_counter()
        result = self._evaluate()
        if not math.isfinite(result.loss):
            what = f"the {self.dataset.held_out} loss became {result.loss}"
            raise self._diverged(f"{what} after step {at.step} (epoch {done})")
        row: Row = {
            "epoch": done,
            "step": at.step,
            "lr": self.schedule(at.step - 1),
            "train_loss": at.loss_sum / at.images,
            "train_accuracy": at.correct / at.images,
            "test_loss": result.loss,
            "test_accuracy": result.accuracy,
            "images_per_second": at.images / max(at.seconds, 1e-9),
            "seconds": at.seconds + time.perf_counter() - started,
        }
        # On a tie the later epoch wins: it has trained longer.
        best = all(row["test_accuracy"] >= earlier["test_accuracy"] for earlier in self.history)
        self.history.append(row)
        self.position = Position(epoch=done, step=at.step)
        if best or not (self.folder / BEST).exists():  # removed in mid-run: then the best from here on
            self._save(BEST)
        self._save(LAST)
        self._write_metrics()
        self.on_epoch(row)
        return result

    def _evaluate(self) -> Evaluation:
        data = self.dataset
        return evaluate(
            inference_engine(self.trained_model),
            data.test_images,
            data.test_labels,
            self.preprocess,
            self.config.batch_size,
            self._after_test_batch,
        )

    def _after_test_batch(self, images: int) -> None:
        self.on_evaluate(images)
        self._stop_if_requested()

    def _diverged(self, what: str) -> DivergedError:
        lr, clip = self.config.lr, self.config.clip_norm
        clipping = f"a lower --clip-norm (it is {clip:g})" if clip else "with --clip-norm 1"
        return DivergedError(
            f"{what}: start again with a lower --lr (it is {lr:g}) or {clipping};"
            f" the last good checkpoint is {self.folder / LAST}"
        )

    def _save(self, name: str) -> None:
        arrays = {f"model.{k}": v for k, v in self.trained_model.state_dict().items()}
        if self.average:
            arrays |= {f"unaveraged.{k}": v for k, v in self.model.state_dict().items()}
        arrays |= {f"optimizer.{k}": v for k, v in self.optimizer.state_dict().items()}
        for array_name, array in arrays.items():
            if not np.isfinite(array).all():
                raise self._diverged(f"{array_name} is no longer finite after step {self.position.step}")
        meta = {
            "config": asdict(self.config),
            "model": self.model.config_dict(),
            "classes": self.dataset.classes,
            "preprocessing": asdict(self.preprocess),
            "position": asdict(self.position),
            "history": self.history,
            "generator": self.model.rng.bit_generator.state,
            "data": self.fingerprint,
        }
        save_run(self.folder, name, arrays, meta)
        if name == LAST:
            self.saved_at = time.monotonic()

    def restore(self, arrays: dict[str, Array], meta: dict[str, Any]) -> None:
        """Take over a checkpoint of this very run, so that `fit` goes on as if it had never stopped.

        Raises CheckpointError if its configuration or its data differ, and says in what.
        """
        check_same_run(self.folder, meta, self.config, self.fingerprint, self.preprocess)
        self.trained_model.load_state_dict(with_prefix(arrays, "model."))
        if self.average:
            self.model.load_state_dict(with_prefix(arrays, "unaveraged."))
        self.optimizer.load_state_dict(with_prefix(arrays, "optimizer."))
        self.model.rng.bit_generator.state = meta["generator"]
        self.position = Position(**meta["position"])
        self.history = meta["history"]

    def _write_metrics(self) -> None:
        header = {name: name.replace("test", self.dataset.held_out) for name in COLUMNS}
        write_metrics(self.folder / "metrics.csv", header, self.history)
