"""Each setting of a run reaches what it is a setting of: a run is never compared with itself here."""

from dataclasses import replace

import numpy as np
import pytest

from tinymnv1.data import load_shapes
from tinymnv1.kernels import simd
from tinymnv1.optim import SGD, Adam, AdamW
from tinymnv1.recipes import TrainConfig
from tinymnv1.schedules import constant, cosine, one_cycle, step_decay, warmup
from tinymnv1.trainer import Trainer, make_optimizer, make_schedule

SHORT = TrainConfig(epochs=2, batch_size=25, lr=0.01)


@pytest.fixture(scope="module")
def data():
    return load_shapes(train=50, test=20)


@pytest.mark.parametrize(
    ("settings", "name", "value"),
    [
        ({"width": 0.5}, "width", 0.5),
        ({"stem_stride": 2}, "stem_stride", 2),
        ({"resolution": 96}, "stem_stride", 2),
        ({}, "stem_stride", 1),
        ({"padding": "tf"}, "padding", "tf"),
        ({"activation": "relu"}, "activation", "relu"),
        ({"dropout": 0.3}, "dropout", 0.3),
        ({}, "num_classes", 10),
    ],
)
def test_of_the_model(data, tmp_path, settings, name, value):
    assert getattr(Trainer(replace(SHORT, **settings), data, tmp_path).model.config, name) == value


def test_of_the_backend_and_the_engine(data, tmp_path):
    by_numpy = Trainer(replace(SHORT, backend="numpy"), data, tmp_path)
    assert by_numpy.model.backend == "numpy"
    assert type(by_numpy.engine).__name__ == "LayerEngine"
    for precision in ("float32", "bfloat16"):
        assert Trainer(replace(SHORT, precision=precision), data, tmp_path).engine.precision == precision


@pytest.mark.parametrize(("multiplies", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_what_the_processor_is_fast_in(multiplies, precision, data, tmp_path, monkeypatch):
    """And the run remembers which that was: it may be resumed on another processor."""
    monkeypatch.setattr(simd, "multiplies_bfloat16", lambda: multiplies)
    config = replace(SHORT, precision="auto")
    trainer = Trainer(config, data, tmp_path)
    assert (trainer.engine.precision, trainer.config.precision) == (precision, precision)
    for plain in (replace(config, engine="layers"), replace(config, backend="numpy")):
        assert Trainer(plain, data, tmp_path).config.precision == "float32"


def test_of_the_preprocessing(data, tmp_path):
    normalised = Trainer(SHORT, data, tmp_path).preprocess
    assert (normalised.resolution, normalised.mean, normalised.std) == (32, data.mean, data.std)
    plain = Trainer(replace(SHORT, normalise=False, resolution=40), data, tmp_path).preprocess
    assert (plain.resolution, plain.mean, plain.std) == (40, (0, 0, 0), (1, 1, 1))


def test_of_the_optimizer(data, tmp_path):
    config = replace(SHORT, lr=0.2, weight_decay=0.03, momentum=0.7, nesterov=False)
    model = Trainer(SHORT, data, tmp_path).model
    for name, kind in (("sgd", SGD), ("adam", Adam), ("adamw", AdamW)):
        optimizer = make_optimizer(replace(config, optimizer=name), model)
        assert type(optimizer) is kind
        assert (optimizer.lr, optimizer.weight_decay) == (0.2, 0.03)
        assert optimizer.parameters.keys() == dict(model.parameters()).keys()
    sgd = make_optimizer(replace(config, optimizer="sgd"), model)
    assert (sgd.momentum, sgd.nesterov) == (0.7, False)
    assert make_optimizer(replace(config, optimizer="sgd", nesterov=True), model).nesterov


def test_of_the_schedule():
    config = replace(SHORT, epochs=8, lr=0.4)
    for name, schedule in (
        ("constant", constant(0.4)),
        ("step", step_decay(0.4, [40, 60])),
        ("cosine", cosine(0.4, 80)),
        ("one-cycle", one_cycle(0.4, 80)),
    ):
        made = make_schedule(replace(config, schedule=name), 10)
        assert [made(step) for step in range(80)] == [schedule(step) for step in range(80)], name
        made, warm = make_schedule(replace(config, schedule=name, warmup=1.5), 10), warmup(schedule, 15)
        assert [made(step) for step in range(80)] == [warm(step) for step in range(80)], name


def test_each_step_is_taken_at_its_own_rate(data, tmp_path, monkeypatch):
    used = []
    train_on = Trainer.train_on

    def watched(trainer, x, labels, lr):
        found = train_on(trainer, x, labels, lr)
        used.append((lr, trainer.optimizer.lr))
        return found

    monkeypatch.setattr(Trainer, "train_on", watched)
    trainer = Trainer(SHORT, data, tmp_path)
    trainer.fit()
    schedule = one_cycle(SHORT.lr, 4)
    assert used == [(schedule(step), schedule(step)) for step in range(4)]
    assert [row["lr"] for row in trainer.history] == [schedule(1), schedule(3)], "of an epoch's last step"


def test_of_the_loss(data, tmp_path, monkeypatch):
    """Label smoothing goes to the engine."""
    trainer = Trainer(replace(SHORT, epochs=1, label_smoothing=0.2), data, tmp_path)
    given = []
    step = trainer.engine.forward_backward

    def watched(x, labels, label_smoothing=0.0):
        given.append(label_smoothing)
        return step(x, labels, label_smoothing)

    monkeypatch.setattr(trainer.engine, "forward_backward", watched)
    trainer.fit()
    assert given == [0.2, 0.2]


def test_of_the_seed(data, tmp_path):
    """It draws the initial weights, the batches, and the images of a limited data set."""
    one, same, other = (Trainer(replace(SHORT, seed=seed), data, tmp_path) for seed in (3, 3, 4))

    def state(trainer):
        x, labels = next(trainer.batches.epoch(0))
        return [trainer.model.state_dict()["blocks.5.pointwise.weight"], x, labels]

    for a, b, c in zip(state(one), state(same), state(other), strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
    parts = [replace(SHORT, limit=10, seed=seed).part_of(data).train_images for seed in (3, 3, 4)]
    np.testing.assert_array_equal(parts[0], parts[1])
    assert not np.array_equal(parts[0], parts[2])
