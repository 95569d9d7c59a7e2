"""The learning-rate finder: how the loss answers to a rising learning rate, before a run begins.

    found = sweep(config, dataset)
    found.suggestion        # for --lr, or None if no rate was too high

L. N. Smith's range test ("Cyclical learning rates for training neural networks", 2017, arXiv 1506.01186, section 3.3):
train for a short while as the rate rises, and see at which rate the loss stops falling. Two things are different here.

The rate rises by the same factor at every step, where Smith adds to it: the rates that come into question lie several
powers of ten apart.

The network is trained for WARM_UP steps before. A new one spends its first hundred steps at a loss of ln(classes),
whatever the rate is, and a sweep of a hundred steps would be over before there is anything to see.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from tinymnv1.data import Dataset
from tinymnv1.errors import DivergedError
from tinymnv1.ops.window import Array
from tinymnv1.recipes import TrainConfig
from tinymnv1.trainer import Trainer

WARM_UP, STEPS = 300, 100
WARM_UP_RATE = {"sgd": 0.02, "adam": 1e-3, "adamw": 1e-3}
"""Of each optimizer: so low that it is safe, so high that the network gets away from ln(classes)."""
LOWEST, HIGHEST = 1e-4, 10.0
MEMORY = 0.9
"""The share of the running mean that a step keeps: batches have their own luck, ten of them less."""
SETTLE = 10
"""Steps until the running mean has seen enough batches to be trusted."""


@dataclass(frozen=True)
class Sweep:
    """rates, losses, smoothed: of each step of the sweep.  guess: ln(classes), the loss of a network that only guesses.
    diverged: whether the loss ended the sweep before the highest rate.

    The loss is its batch's before the step: it shows what the rates before did. If it is no number it is left out.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    guess: float
    diverged: bool

    @property
    def tolerance(self) -> float:
        """By how much the smoothed loss may be above its smallest value: a twentieth of the guess's loss."""
        return 0.05 * self.guess

    @property
    def suggestion(self) -> float | None:
        """The highest rate at which the smoothed loss was still within the tolerance, to one digit.

        None if the loss never rose, was never below a guess's, or diverged before it could be judged.
        """
        if len(self.smoothed) <= SETTLE or min(self.smoothed[SETTLE:]) > self.guess:
            return None
        limit = min(self.smoothed[SETTLE:]) + self.tolerance
        last = max(k for k, loss in enumerate(self.smoothed) if k >= SETTLE and loss <= limit)
        if last == len(self.smoothed) - 1 and not self.diverged:
            return None
        return float(f"{self.rates[last]:.0e}")


def sweep(config: TrainConfig, dataset: Dataset, on_step: Callable[[float], None] = lambda loss: None) -> Sweep:
    """Train a new model as `config` says, but for WARM_UP steps at a safe rate and STEPS more at rising ones.

    The sweep ends early once the network is worse than one that only guesses. The model is thrown away, and nothing is
    written. dataset: the part of the data that the run would use.  on_step: called after every step with its loss.
    Raises DivergedError if the loss stops being a finite number before the sweep.
    """
    trainer = Trainer(config, dataset, Path())  # the folder is where `fit` would write; it is never called
    batches = _endless(trainer)
    rates = np.geomspace(LOWEST, HIGHEST, STEPS).tolist()
    guess = math.log(len(dataset.classes))
    losses: list[float] = []
    smoothed: list[float] = []
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # the highest rates are meant to break it
        rate = WARM_UP_RATE[config.optimizer]
        for step in range(WARM_UP):
            loss, _ = trainer.train_on(*next(batches), rate)
            if not math.isfinite(loss):
                cure = "lower --momentum or " if config.optimizer == "sgd" and config.momentum else ""
                cure += "lower --clip-norm" if config.clip_norm else "add --clip-norm 1"
                raise DivergedError(
                    f"the loss became {loss} at step {step + 1} of the warm-up, at a learning rate of {rate:g}: {cure}"
                )
            on_step(loss)
        mean = 0.0
        for step, rate in enumerate(rates, 1):
            loss, _ = trainer.train_on(*next(batches), rate)
            if not math.isfinite(loss):
                return Sweep(rates[: len(losses)], losses, smoothed, guess, diverged=True)
            mean = MEMORY * mean + (1 - MEMORY) * loss
            losses.append(loss)
            smoothed.append(mean / (1 - MEMORY**step))  # the mean began at zero: Adam's correction
            on_step(loss)
            if step > SETTLE and smoothed[-1] > 1.1 * guess:
                return Sweep(rates[:step], losses, smoothed, guess, diverged=True)
    return Sweep(rates, losses, smoothed, guess, diverged=False)


def _endless(trainer: Trainer) -> Iterator[tuple[Array, Array]]:
    batches = trainer.batches_of(0)  # one resolution from start to end, so that only the rate moves the loss
    for epoch in count():
        yield from batches.epoch(epoch)
