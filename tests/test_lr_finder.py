"""The learning-rate finder: what it suggests follows from the curve, it ends when the loss does; a picture is left."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinymnv1 import lr_finder, plots
from tinymnv1.data import load_shapes
from tinymnv1.errors import DivergedError
from tinymnv1.lr_finder import SETTLE, STEPS, Sweep, sweep
from tinymnv1.recipes import TrainConfig
from tinymnv1.trainer import Trainer

CONFIG = TrainConfig(batch_size=20, resolution=16)


@pytest.fixture(scope="module")
def data():
    return load_shapes(train=60, test=10)


def found(curve, diverged=True):
    rates = np.geomspace(1e-4, 1, len(curve)).tolist()
    return Sweep(rates, list(curve), list(curve), guess=2.0, diverged=diverged)


def test_the_suggestion_is_the_last_rate_before_the_loss_rises():
    """Down to 1.0, up again: within a twentieth of the guess's loss, 0.1, for the last time at a rate of 1e-2."""
    curve = np.interp(np.arange(101), [0, 25, 50, 100], [1.8, 1.0, 1.0999, 2.2])
    assert found(curve).suggestion == 0.01
    curve[60] = 1.05  # a lucky batch later on counts: it is the last time that matters
    assert found(curve).suggestion == pytest.approx(0.03)


def test_a_wild_beginning_is_not_the_minimum():
    """The running mean of the first steps is a batch or two: it must not set the limit."""
    curve = np.interp(np.arange(101), [0, 50, 100], [1.5, 1.5, 3.0])
    curve[2] = 0.5
    assert found(curve).suggestion == 0.01


def test_no_rise_no_suggestion():
    falling = np.linspace(2, 1, 100)
    assert found(falling, diverged=False).suggestion is None
    assert found(falling, diverged=True).suggestion == 1, "it broke right after its smallest value"
    assert found(falling[:SETTLE]).suggestion is None
    assert found([]).suggestion is None


def test_a_sweep_that_was_never_better_than_a_guess_suggests_nothing():
    """It ends at the first step that it judges: that one's rate is no choice among several."""
    assert found([3.0] * (SETTLE + 1)).suggestion is None


def test_a_sweep_trains_as_the_run_would_and_ends_when_it_is_worse_than_a_guess(data, monkeypatch):
    used = []
    train_on = Trainer.train_on

    def watched(trainer, x, labels, lr):
        used.append((lr, x.shape[:2], trainer.config.label_smoothing))
        return train_on(trainer, x, labels, lr)

    monkeypatch.setattr(Trainer, "train_on", watched)
    monkeypatch.setattr(lr_finder, "WARM_UP", 5)
    told = []
    result = sweep(replace(CONFIG, label_smoothing=0.1, early_resolution=8, epochs=2), data, told.append)
    assert [rate for rate, _, _ in used] == [1e-3] * 5 + result.rates
    assert {tuple(rest) for _, *rest in used} == {((20, 8), 0.1)}, "20 images, of the size that the run begins with"
    assert told == [*told[:5], *result.losses]
    factors = np.divide(result.rates[1:], result.rates[:-1])
    np.testing.assert_allclose(factors, 1e5 ** (1 / (STEPS - 1)))
    assert result.diverged
    assert SETTLE < len(result.rates) < STEPS
    assert result.smoothed[-1] > 1.1 * math.log(10) >= max(result.smoothed[SETTLE:-1])


def test_the_running_mean_forgets_its_start_at_zero(data, monkeypatch):
    monkeypatch.setattr(Trainer, "train_on", lambda trainer, x, labels, lr: (2.0, None))
    result = sweep(CONFIG, data)
    np.testing.assert_allclose(result.smoothed, 2.0)
    assert not result.diverged
    assert result.rates[-1] == pytest.approx(10)


def test_a_loss_that_is_no_number_ends_the_sweep_and_is_left_out(data, monkeypatch):
    losses = iter([*[1.0] * (lr_finder.WARM_UP + 30), math.nan])
    monkeypatch.setattr(Trainer, "train_on", lambda trainer, x, labels, lr: (next(losses), None))
    result = sweep(CONFIG, data)
    assert result.diverged
    assert result.losses == [1.0] * 30
    assert result.suggestion == float(f"{result.rates[-1]:.0e}")


@pytest.mark.parametrize(
    ("optimizer", "cure"), [("sgd", "lower --momentum or add --clip-norm 1"), ("adamw", "add --clip-norm 1")]
)
def test_a_warm_up_that_diverges_says_so(optimizer, cure, data, monkeypatch):
    monkeypatch.setattr(Trainer, "train_on", lambda trainer, x, labels, lr: (math.inf, None))
    config = replace(CONFIG, optimizer=optimizer)
    with pytest.raises(DivergedError, match=f"step 1 of the warm-up.*: {cure}$"):
        sweep(config, data)
    with pytest.raises(DivergedError, match=r"lower --clip-norm$"):
        sweep(replace(config, clip_norm=1.0), data)
    with pytest.raises(DivergedError, match=r": add --clip-norm 1$"):
        sweep(replace(config, momentum=0.0, nesterov=False), data)


def test_the_picture_shows_the_curve_and_the_suggestion():
    figure = plots.learning_rates([1e-3, 1e-2, 1e-1], [2, 1, 1e5], [2, 1.5, 2.4], 2.3, 0.01, "title")
    axes = figure.axes[0]
    _, mean, guess, suggestion = axes.lines
    assert list(mean.get_ydata()) == [2, 1.5, 2.4]
    assert guess.get_ydata()[0] == 2.3
    assert suggestion.get_xdata()[0] == 0.01
    assert axes.get_ylim()[1] < 5, "what diverged does not squeeze the rest"
    assert axes.get_xscale() == "log"
    assert len(plots.learning_rates([1e-3], [2], [2], 2.3, None, "title").axes[0].lines) == 3


def command(*arguments, cwd):
    argv = [sys.executable, "-m", "tinymnv1.train", *map(str, arguments)]
    return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_find_lr_leaves_a_picture_and_no_run(tmp_path):
    result = command("--find-lr", "--limit", 60, "--batch-size", 20, "--out", "new", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "suggestion: --lr 0.0" in result.stdout
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()] == [str(Path("new/find-lr.png"))]
    with Image.open(tmp_path / "new" / "find-lr.png") as picture:
        assert min(picture.size) > 300
    resumed = command("--resume", "new", cwd=tmp_path)
    assert (resumed.returncode, resumed.stderr.count("\n")) == (2, 1)
    assert "no run to resume" in resumed.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--resume", "run"), "leave out --resume"),
        (("--out", "taken/x"), "is a file"),
        (("--out", "run"), "holds a run already"),
        (("--batch-size", "0"), "--batch-size"),
        (("--data", "folder", "--data-dir", "nowhere", "--out", "new"), "no such folder"),
    ],
)
def test_mistakes_give_one_line_and_leave_nothing(arguments, word, tmp_path):
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.safetensors").write_text("a run, as far as anyone can see")
    before = sorted(tmp_path.rglob("*"))
    result = command("--find-lr", *arguments, cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
    assert word in result.stderr
    assert sorted(tmp_path.rglob("*")) == before
