"""The training loop: it learns, it stops where it should, and a resumed run is the same run, bit for bit."""

import csv
import json
import time
from dataclasses import replace

import numpy as np
import pytest

from tinymnv1.checkpoint import load_checkpoint
from tinymnv1.data import load_shapes
from tinymnv1.errors import CheckpointError, ConfigError, DivergedError
from tinymnv1.plots import best_row
from tinymnv1.recipes import RECIPES, TrainConfig, make_config
from tinymnv1.runs import load_trained
from tinymnv1.trainer import Evaluation, Interrupted, Trainer, evaluate, make_schedule

FILES = {"config.json", "metrics.csv", "last.safetensors", "previous.safetensors", "best.safetensors"}


@pytest.fixture(scope="module")
def data():
    return load_shapes(train=100, test=50)


def make(config, data, folder, **callbacks):
    folder.mkdir(exist_ok=True)
    return Trainer(config, data, folder, **callbacks)


SHORT = TrainConfig(epochs=3, batch_size=30, lr=0.05, augment="crop-flip", dropout=0.2)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_hundred_images_are_learned_by_heart(data, tmp_path, precision):
    """If a network of 215,642 parameters cannot do this, some gradient is wrong."""
    config = TrainConfig(
        epochs=80, batch_size=50, optimizer="adam", lr=3e-3, augment="none", weight_decay=0.0, precision=precision
    )
    trainer = make(config, data, tmp_path)
    assert trainer.engine.precision == precision
    trainer.fit()
    assert evaluate(trainer.engine, data.train_images, data.train_labels, trainer.preprocess).accuracy == 1.0


def test_every_depthwise_filter_moves_within_an_epoch(data, tmp_path):
    """A gradient that never arrives leaves a filter where it began; one epoch without decay shows it."""
    trainer = make(replace(SHORT, epochs=1, weight_decay=0.0), data, tmp_path)
    before = trainer.model.state_dict()
    trainer.fit()
    for name, after in trainer.model.state_dict().items():
        if name.endswith("depthwise.weight"):
            moved = np.abs(after - before[name]).max(axis=(0, 1))  # (C,)
            assert (moved > 0).all(), name


def test_a_run_leaves_its_files(data, tmp_path):
    rows = []
    trainer = make(SHORT, data, tmp_path, on_epoch=rows.append)
    result = trainer.fit()
    assert {p.name for p in tmp_path.iterdir()} == FILES
    assert json.loads((tmp_path / "config.json").read_text())["batch_size"] == 30
    with (tmp_path / "metrics.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row["epoch"] for row in written] == ["1", "2", "3"]
    assert [row["step"] for row in written] == ["3", "6", "9"]
    assert [float(row["train_loss"]) for row in written] == [row["train_loss"] for row in rows]
    assert float(written[-1]["test_accuracy"]) == result.accuracy
    best = max(float(row["test_accuracy"]) for row in written)
    trained = load_trained(tmp_path)
    assert evaluate(trained.model.forward, data.test_images, data.test_labels, trained.preprocess).accuracy == best


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_a_resumed_run_is_the_same_run(data, tmp_path, optimizer, stop_at):
    """Interrupted within and between epochs; with dropout and augmentation, whose random numbers must go on, too."""
    config = replace(SHORT, optimizer=optimizer, lr=0.01, schedule="cosine", warmup=0.5)
    whole = make(config, data, tmp_path / "whole")
    whole.fit()

    def stop(trainer, loss):
        trainer.stop_requested = trainer.position.step == stop_at

    first = make(config, data, tmp_path / "broken", on_step=stop)
    with pytest.raises(Interrupted):
        first.fit()
    second = make(config, data, tmp_path / "broken")
    second.restore(*load_checkpoint(tmp_path / "broken" / "last.safetensors"))
    assert second.position.step == stop_at
    second.fit()

    for name, array in whole.model.state_dict().items():
        np.testing.assert_array_equal(second.model.state_dict()[name], array, err_msg=name)
    timing = ("images_per_second", "seconds")
    for a, b in zip(whole.history, second.history, strict=True):
        assert {k: v for k, v in a.items() if k not in timing} == {k: v for k, v in b.items() if k not in timing}


def test_a_stop_that_was_asked_for_once_is_done_once(data, tmp_path):
    """In a notebook: `fit` raises Interrupted, and the next `fit` goes on to the end."""

    def ask_once(trainer, loss):
        trainer.stop_requested = trainer.stop_requested or trainer.position.step == 2

    trainer = make(replace(SHORT, epochs=1), data, tmp_path, on_step=ask_once)
    with pytest.raises(Interrupted):
        trainer.fit()
    trainer.fit()
    assert trainer.position.epoch == 1


def test_an_image_that_shrinks_to_one_value_a_channel_is_refused_before_anything_is_saved(data, tmp_path):
    for settings in ({"resolution": 32}, {"resolution": 64, "early_resolution": 32}):
        with pytest.raises(ConfigError, match="one value per channel"):
            make(replace(SHORT, batch_size=1, stem_stride=2, **settings), data, tmp_path)
    assert make(replace(SHORT, batch_size=2, stem_stride=2), data, tmp_path).position.step == 0
    one = replace(SHORT, batch_size=1, stem_stride=2, resolution=64, early_resolution=32, epochs=1)
    assert make(one, data, tmp_path).position.step == 0, "the only epoch of a run is at its full resolution"
    assert not list(tmp_path.iterdir())


def test_a_run_by_layers_is_the_same_run_to_rounding_and_resumes_too(data, tmp_path):
    """`--engine` changes the speed only: the same batches, the same dropout, losses apart by float32's rounding."""
    config = replace(SHORT, epochs=1, lr=1e-4, schedule="constant")
    losses = {"fused": [], "layers": []}
    for engine, found in losses.items():

        def keep(trainer, loss, found=found):
            found.append(loss)

        trainer = make(replace(config, engine=engine), data, tmp_path / engine, on_step=keep)
        assert type(trainer.engine).__name__ == {"fused": "TrainingEngine", "layers": "LayerEngine"}[engine]
        trainer.fit()
    assert losses["fused"] == pytest.approx(losses["layers"], rel=1e-3)
    assert losses["fused"] != losses["layers"]

    def stop(trainer, loss):
        trainer.stop_requested = trainer.position.step == 2

    config = replace(config, engine="layers")
    with pytest.raises(Interrupted):
        make(config, data, tmp_path / "broken", on_step=stop).fit()
    second = make(config, data, tmp_path / "broken")
    second.restore(*load_checkpoint(tmp_path / "broken" / "last.safetensors"))
    second.fit()
    for name, array in trainer.model.state_dict().items():
        np.testing.assert_array_equal(second.model.state_dict()[name], array, err_msg=name)


def test_a_finished_run_resumes_to_its_result(data, tmp_path):
    config = replace(SHORT, epochs=1)
    result = make(config, data, tmp_path).fit()
    again = make(config, data, tmp_path)
    again.restore(*load_checkpoint(tmp_path / "last.safetensors"))
    assert again.fit().accuracy == result.accuracy
    assert again.position.step == 3


def test_resuming_something_else_is_refused(data, tmp_path):
    make(replace(SHORT, epochs=1), data, tmp_path).fit()
    saved = load_checkpoint(tmp_path / "last.safetensors")
    with pytest.raises(CheckpointError, match=r"--lr 0.05, not 0.2"):
        make(replace(SHORT, epochs=1, lr=0.2), data, tmp_path).restore(*saved)
    with pytest.raises(CheckpointError, match="data set has changed"):
        make(replace(SHORT, epochs=1), load_shapes(100, 50, seed=9), tmp_path).restore(*saved)
    with pytest.raises(CheckpointError, match="another mean or standard deviation"):
        make(replace(SHORT, epochs=1), replace(data, mean=(0.5, 0.5, 0.6)), tmp_path).restore(*saved)


def test_a_diverging_run_stops_and_keeps_the_last_good_checkpoint(data, tmp_path):
    """At a rate of 1e20 the weights leave float32 within two steps."""
    config = replace(SHORT, lr=1e20, schedule="constant", nesterov=False, momentum=0.0)
    trainer = make(config, data, tmp_path)
    with pytest.raises(DivergedError, match=r"step \d+.*lower --lr.*last.safetensors"):
        trainer.fit()
    arrays, meta = load_checkpoint(tmp_path / "last.safetensors")
    assert all(np.isfinite(a).all() for a in arrays.values())
    assert meta["position"]["step"] == 0


def test_clipping_holds_the_first_step_back(data, tmp_path):
    """With plain SGD a step moves the weights by at most lr times the limit."""
    plain = replace(SHORT, optimizer="sgd", momentum=0.0, nesterov=False, weight_decay=0.0, lr=1.0, schedule="constant")
    trainer = make(
        replace(plain, clip_norm=0.01), data, tmp_path, on_step=lambda t, loss: setattr(t, "stop_requested", True)
    )
    before = {name: p.data.copy() for name, p in trainer.model.parameters()}
    with pytest.raises(Interrupted):
        trainer.fit()
    moved = sum(((p.data - before[name]) ** 2).sum() for name, p in trainer.model.parameters()) ** 0.5
    assert 0 < moved <= 0.0101


def test_a_folder_removed_before_the_run_is_a_clear_error(data, tmp_path):
    trainer = make(SHORT, data, tmp_path / "run")
    (tmp_path / "run").rmdir()
    with pytest.raises(CheckpointError, match=r"run: was removed .* saved there again"):
        trainer.fit()


def test_the_time_of_a_run_includes_the_making_of_its_batches(data, tmp_path, monkeypatch):
    """A record's time is the sum of its epochs' seconds: augmentation must be in it."""
    trainer = make(replace(SHORT, epochs=1), data, tmp_path)
    quick = type(trainer.batches).epoch

    def slow(batches, *arguments):
        for batch in quick(batches, *arguments):
            time.sleep(0.2)
            yield batch

    monkeypatch.setattr(type(trainer.batches), "epoch", slow)
    trainer.fit()
    assert trainer.history[-1]["images_per_second"] < 90 / (3 * 0.2)
    assert trainer.history[-1]["seconds"] >= 3 * 0.2


def test_the_accuracy_of_training_counts_the_images_that_are_right(data, tmp_path, monkeypatch):
    """In each batch of 30 all but the first five."""

    def train_on(trainer, x, labels, lr):
        logits = np.eye(10)[(labels + (np.arange(len(labels)) < 5)) % 10]
        return 1.0, logits

    monkeypatch.setattr(Trainer, "train_on", train_on)
    trainer = make(replace(SHORT, epochs=1), data, tmp_path)
    trainer.fit()
    assert trainer.history[0]["train_accuracy"] == pytest.approx(25 / 30)
    assert trainer.history[0]["train_loss"] == 1.0


@pytest.mark.parametrize(("accuracies", "best"), [((0.5, 0.9, 0.7), 2), ((0.9, 0.5, 0.5), 1), ((0.5, 0.5, 0.5), 3)])
def test_the_best_checkpoint_is_of_the_most_accurate_epoch_and_of_the_last_among_equals(
    data, tmp_path, monkeypatch, accuracies, best
):
    scripted = iter(accuracies)
    monkeypatch.setattr(Trainer, "_evaluate", lambda trainer: Evaluation(1.0, next(scripted), np.zeros((50, 10))))
    trainer = make(SHORT, data, tmp_path)
    trainer.fit()
    assert load_trained(tmp_path).epoch == best
    assert best_row(trainer.history)["epoch"] == best


def test_schedules_by_name():
    config = TrainConfig(epochs=4, lr=1.0, schedule="step")
    rates = [make_schedule(config, 10)(step) for step in (0, 19, 20, 29, 30, 39)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert make_schedule(replace(config, schedule="constant", warmup=1.0), 10)(4) == pytest.approx(0.5)
    for name in ("cosine", "one-cycle"):
        rates = [make_schedule(replace(config, schedule=name), 10)(step) for step in range(40)]
        assert max(rates) == pytest.approx(1.0, rel=0.02)
        assert rates[-1] < 0.01


def test_the_seed_recipe_is_the_articles():
    config = make_config("seed")
    assert (config.data, config.resolution, config.normalise, config.augment) == ("cifar10", 224, False, "none")
    assert (config.batch_size, config.optimizer, config.lr, config.epochs) == (64, "adam", 1e-3, 5)
    assert (config.schedule, config.weight_decay, config.width) == ("constant", 0.0, 1.0)
    assert config.effective_stem_stride() == 2
    assert set(RECIPES) == {"quick", "seed", "cifar10-fast", "cifar10-record"}


def test_the_stems_stride_follows_the_resolution():
    assert TrainConfig().effective_stem_stride() == 1
    assert TrainConfig(resolution=64).effective_stem_stride() == 1
    assert TrainConfig(resolution=65).effective_stem_stride() == 2
    assert TrainConfig(resolution=224, stem_stride=1).effective_stem_stride() == 1
    assert TrainConfig(data="folder").effective_resolution() == 64
