"""The recipes and the settings of a run: what is refused, and that each setting does what it says in a training run."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from tinymnv1 import trainer as trainer_module
from tinymnv1.averaging import WeightAverage
from tinymnv1.checkpoint import load_checkpoint
from tinymnv1.data import TrainingBatches, load_shapes, resize
from tinymnv1.engine import inference_engine
from tinymnv1.errors import ConfigError
from tinymnv1.recipes import RECIPES, TrainConfig, make_config, recipe_table
from tinymnv1.runs import load_trained
from tinymnv1.trainer import Interrupted, Trainer, evaluate, flip_averaged

SHORT = TrainConfig(epochs=3, batch_size=30, lr=0.01, dropout=0.2)
EVERYTHING = replace(
    SHORT,
    augment="reflect-crop-flip",
    cutout=8,
    alternate_flip=True,
    jitter=0.2,
    label_smoothing=0.1,
    ema_decay=0.8,
    evaluate_every=2,
    early_resolution=20,
    init="fan-in",
    identity=0.5,
    precision="bfloat16",
)


@pytest.fixture(scope="module")
def data():
    return load_shapes(train=100, test=50)


def make(config, data, folder, **callbacks):
    folder.mkdir(exist_ok=True)
    return Trainer(config, data, folder, **callbacks)


def stopping_at(step):
    def stop(trainer, loss):
        trainer.stop_requested = trainer.position.step == step

    return stop


def same(states, other):
    for name, array in states.items():
        np.testing.assert_array_equal(other[name], array, err_msg=name)


@pytest.mark.parametrize("stop_at", [1, 3, 4, 6, 8])
def test_a_run_with_every_setting_resumes_bit_for_bit(data, tmp_path, stop_at):
    """Weights, their average, and the sums of a row that covers two epochs, go on where they stopped."""
    whole = make(EVERYTHING, data, tmp_path / "whole")
    whole.fit()
    with pytest.raises(Interrupted):
        make(EVERYTHING, data, tmp_path / "broken", on_step=stopping_at(stop_at)).fit()
    second = make(EVERYTHING, data, tmp_path / "broken")
    second.restore(*load_checkpoint(tmp_path / "broken" / "last.safetensors"))
    assert second.position.step == stop_at
    second.fit()
    same(whole.model.state_dict(), second.model.state_dict())
    same(whole.average.model.state_dict(), second.average.model.state_dict())
    for a, b in zip(whole.history, second.history, strict=True):
        timing = {"images_per_second", "seconds"}
        assert {k: a[k] for k in a.keys() - timing} == {k: b[k] for k in b.keys() - timing}


def test_the_settings_of_augmentation_reach_the_batches(data, tmp_path):
    trainer = make(EVERYTHING, data, tmp_path)
    expected = TrainingBatches(
        data.train_images,
        data.train_labels,
        30,
        trainer.preprocess,
        "reflect-crop-flip",
        EVERYTHING.seed,
        cutout=8,
        alternate_flip=True,
        jitter=0.2,
    )
    for (x, labels), (x2, labels2) in zip(trainer.batches.epoch(1), expected.epoch(1), strict=True):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(labels, labels2)


def test_the_first_half_of_the_epochs_may_use_smaller_images(data, tmp_path):
    """They are the whole images, scaled down and then augmented: not parts of them."""
    config = replace(SHORT, early_resolution=16, epochs=5, augment="crop-flip", cutout=8)
    trainer = make(config, data, tmp_path)
    sizes = [next(trainer.batches_of(epoch).epoch(epoch))[0].shape[1:3] for epoch in range(5)]
    assert sizes == [(16, 16)] * 2 + [(32, 32)] * 3
    small = replace(trainer.preprocess, resolution=16)
    images = resize(data.train_images, 16)
    expected = TrainingBatches(images, data.train_labels, 30, small, "crop-flip", SHORT.seed, cutout=4)
    for (x, labels), (x2, labels2) in zip(trainer.batches_of(1).epoch(1), expected.epoch(1), strict=True):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(labels, labels2)
    tiny = make(replace(config, cutout=1), data, tmp_path / "tiny")
    assert tiny.batches_of(0).cutout == 1, "a small hole does not vanish"
    assert make(replace(config, cutout=0), data, tmp_path / "none").batches_of(0).cutout == 0
    enlarging = make(replace(config, resolution=64, early_resolution=48), data, tmp_path / "large")
    assert next(enlarging.batches_of(0).epoch(0))[0].shape[1:3] == (48, 48)


def test_images_are_scaled_before_the_run_if_there_is_room(data, tmp_path, monkeypatch):
    config = replace(SHORT, resolution=40, early_resolution=24)
    for room, sizes in ((1 << 30, (24, 40)), (100 * 24 * 24 * 3, (24, 32)), (0, (32, 32))):
        monkeypatch.setattr(trainer_module, "SCALED_BYTES", room)
        trainer = make(config, data, tmp_path)
        for epoch, seen, lies in ((0, 24, sizes[0]), (2, 40, sizes[1])):
            batches = trainer.batches_of(epoch)
            assert batches.images.shape[1:3] == (lies, lies)
            assert next(batches.epoch(0))[0].shape[1:3] == (seen, seen)


def test_the_initial_weights_are_those_of_the_setting(data, tmp_path):
    def largest(init):
        trainer = make(replace(SHORT, init=init), data, tmp_path / init)
        return np.abs(dict(trainer.model.parameters())["blocks.0.depthwise.weight"].data).max()

    assert largest("slim") <= 0.18 < largest("fan-in") <= 1 / 3
    trainer = make(replace(SHORT, identity=2.0), data, tmp_path / "identity")
    assert trainer.model.blocks[0].layers["depthwise"].params["weight"].data[1, 1].min() >= 2 - 0.18


def test_the_average_is_what_is_evaluated_and_saved(data, tmp_path):
    """It is the average of the weights after each step, and not the weights: those are kept beside it for --resume."""
    config = replace(SHORT, ema_decay=0.9)
    averages = []

    def follow(trainer, loss):
        if not averages:
            averages.append(WeightAverage(trainer.model, 0.9))
            averages[0].model.load_state_dict(initial)
        averages[0].update(trainer.position.step)

    trainer = make(config, data, tmp_path, on_step=follow)
    initial = trainer.model.state_dict()
    result = trainer.fit()
    average = averages[0].model.state_dict()
    trained = load_trained(tmp_path, "last")
    same(average, trained.model.state_dict())
    told = [
        evaluate(inference_engine(model), data.test_images, data.test_labels, trained.preprocess, 30).probabilities
        for model in (trained.model, trainer.model)
    ]
    np.testing.assert_array_equal(result.probabilities, told[0])
    assert np.abs(result.probabilities - told[1]).max() > 1e-4
    weights = trainer.model.state_dict()
    arrays, _ = load_checkpoint(tmp_path / "last.safetensors")
    same({f"unaveraged.{name}": array for name, array in weights.items()}, arrays)


def test_without_a_decay_there_is_no_average(data, tmp_path):
    trainer = make(replace(SHORT, epochs=1), data, tmp_path)
    trainer.fit()
    assert trainer.trained_model is trainer.model
    arrays, _ = load_checkpoint(tmp_path / "last.safetensors")
    assert {name.split(".")[0] for name in arrays} == {"model", "optimizer"}


def test_a_row_covers_the_epochs_since_the_last_one(data, tmp_path):
    """And changes nothing else: the weights are those of a run that is evaluated after every epoch."""
    counts, rows, states = [], {}, {}
    for every in (1, 2, 7):
        trainer = make(replace(SHORT, evaluate_every=every), data, tmp_path / str(every), on_evaluate=counts.append)
        trainer.fit()
        rows[every], states[every] = trainer.history, trainer.model.state_dict()
    same(states[1], states[2])
    same(states[1], states[7])
    assert [row["epoch"] for row in rows[1]] == [1, 2, 3]
    assert [row["epoch"] for row in rows[2]] == [2, 3]
    assert [row["epoch"] for row in rows[7]] == [3]
    assert sum(counts) == 50 * (3 + 2 + 1)
    losses = [row["train_loss"] for row in rows[1]]
    assert [row["train_loss"] for row in rows[2]] == pytest.approx([np.mean(losses[:2]), losses[2]])
    assert rows[7][0]["train_loss"] == pytest.approx(np.mean(losses))


def test_a_validation_run_never_sees_the_test_images(data, tmp_path):
    """It is evaluated on training images that it is not trained on, and its metrics say so."""
    config = replace(SHORT, epochs=1, validation=20)
    unseen = replace(data, test_images=np.zeros_like(data.test_images))
    losses = []
    for name, given in (("data", data), ("unseen", unseen)):
        trainer = make(config, config.part_of(given), tmp_path / name)
        assert len(trainer.batches.images) == 80
        losses.append(trainer.fit().loss)
        with (tmp_path / name / "metrics.csv").open() as file:
            (row,) = csv.DictReader(file)
        assert float(row["validation_loss"]) == losses[-1]
        assert not any("test" in column for column in row)
    assert losses[0] == losses[1]


def test_validation_comes_before_the_limit(data):
    part = replace(SHORT, validation=40, limit=30).part_of(data)
    assert (len(part.train_labels), len(part.test_labels), part.held_out) == (30, 30, "validation")
    assert SHORT.part_of(data) is data


def test_flip_averaging_is_the_mean_over_the_image_and_its_mirror_image(data):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(8 * 8 * 3, 4))

    def engine(x):
        return x.reshape(len(x), -1) @ weight

    x = rng.normal(size=(5, 8, 8, 3))
    logits = flip_averaged(engine)(x)
    np.testing.assert_allclose(logits, (engine(x) + engine(np.flip(x, axis=2))) / 2)
    np.testing.assert_allclose(flip_averaged(engine)(np.flip(x, axis=2)), logits)
    assert np.abs(logits - engine(x)).max() > 0.1


def test_the_recipes_of_cifar10_are_the_plain_model():
    """Stem stride 1; what differs from the other recipes is the training, and how large the images are."""
    for name in ("cifar10-fast", "cifar10-record"):
        config = make_config(name)
        assert (config.data, config.effective_stem_stride()) == ("cifar10", 1)
        assert (config.padding, config.activation) == ("symmetric", "relu6")
        assert (config.optimizer, config.nesterov) == ("sgd", True)
        assert config.validation == 0
    assert make_config("cifar10-record").width == 1.0
    assert [make_config(name).dropout for name in ("cifar10-fast", "cifar10-record")] == [0, 0.2]


def test_the_table_has_each_recipes_settings():
    """A row for every setting in which recipes differ, and what each of them trains with."""
    header, *lines = recipe_table().splitlines()
    assert header.split() == list(RECIPES)
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    assert {name for _, settings in RECIPES.values() for name in settings} == {n.replace("-", "_") for n in rows}
    configs = [make_config(name) for name in RECIPES]
    assert rows["width"] == [f"{config.width:g}" for config in configs]
    assert rows["augment"] == [config.augment for config in configs]
    assert rows["normalise"] == ["yes", "no", "yes", "yes"]
    assert all(len(line) <= 78 for line in (header, *lines))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cutout": -1}, "--cutout must be at least 0"),
        ({"jitter": 1.0}, "--jitter must be from 0 up to, but not including, 1, got 1.0"),
        ({"validation": -1}, "--validation must be at least 0"),
        ({"lr": np.inf}, "--lr must be finite and at least 0, got inf"),
        ({"evaluate_every": 0}, "--evaluate-every must be at least 1"),
        ({"ema_decay": 1.0}, "--ema-decay must be from 0 up to, but not including, 1"),
        ({"ema_decay": float("nan")}, "--ema-decay"),
        ({"augment": "none", "alternate_flip": True}, "--alternate-flip needs an --augment that flips, not none"),
        ({"augment": "reflect"}, "--augment must be one of"),
        ({"early_resolution": 40}, "--early-resolution must be at most the run's 32 pixels, got 40; 0 means none"),
        ({"cutout": 33}, "--cutout must be at most the run's 32 pixels, got 33"),
        ({"warmup": 3.5}, "--warmup must be at most the run's 3 epochs, got 3.5"),
        ({"stem_stride": 33}, "--stem-stride must be at most the run's 32 pixels, got 33"),
        ({"epochs": 10**6 + 1}, "--epochs must be at most 1000000, got 1000001"),
        ({"precision": "half"}, "--precision must be one of auto, float32, bfloat16, got 'half'"),
        ({"precision": "bfloat16", "engine": "layers"}, "--precision bfloat16 needs --engine fused"),
        ({"precision": "bfloat16", "backend": "numpy"}, "--precision bfloat16 needs .* --backend numba"),
        ({"momentum": 0.5}, "--momentum is a setting of SGD, not of adamw; add --optimizer sgd"),
        ({"nesterov": False}, "--no-nesterov is a setting of SGD"),
        ({"init": "he"}, "--init must be one of slim, fan-in, got 'he'"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        make_config("quick", **settings)
