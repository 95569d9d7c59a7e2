"""`shapes`: deterministic, balanced, and beyond a linear classifier."""

import numpy as np
import pytest

from tinymnv1.data import Preprocessing, load_shapes, shapes
from tinymnv1.data.dataset import channel_statistics
from tinymnv1.data.shapes import SHAPES
from tinymnv1.errors import ConfigError
from tinymnv1.ops import linear_backward, linear_forward, softmax_cross_entropy
from tinymnv1.optim import Adam
from tinymnv1.parameters import Parameter


def test_the_same_seed_draws_the_same_images():
    one, two, other = (load_shapes(200, 100, seed) for seed in (3, 3, 4))
    assert one.fingerprint() == two.fingerprint() != other.fingerprint()
    assert one.train_images.dtype == np.uint8
    assert one.train_images.shape == (200, 32, 32, 3)
    assert one.test_images.shape == (100, 32, 32, 3)


def test_statistics_are_those_of_the_training_images():
    data = load_shapes(train=30, test=20)
    assert data.mean == channel_statistics(data.train_images)[0]
    for train, test in ((0, 5), (5, 0)):
        with pytest.raises(ConfigError, match="at least one training and one test image"):
            load_shapes(train, test)


def test_classes_are_balanced_and_parts_differ():
    data = load_shapes(500, 250)
    assert data.classes == tuple(SHAPES)
    assert np.bincount(data.train_labels).tolist() == [50] * 10
    assert np.bincount(data.test_labels).tolist() == [25] * 10
    assert not np.array_equal(data.train_images[:100], data.test_images[:100])


def test_every_shape_has_its_own_outline():
    """On a fine grid, no two of the ten distance functions agree on the inside by more than 85 %."""
    v, u = np.mgrid[-1:1:101j, -1:1:101j]
    insides = [distance(u, v) < 0 for distance in SHAPES.values()]
    for i, a in enumerate(insides):
        assert 0.05 < a.mean() < 0.8
        for b in insides[:i]:
            assert (a & b).sum() / (a | b).sum() < 0.85


def test_a_linear_softmax_stays_under_45_percent():
    """Trained to the end on all the pixels: where a shape lies and what colour it has says nothing about its class."""
    data = load_shapes()
    prepare = Preprocessing(32, data.mean, data.std)
    x, labels = prepare(data.train_images).reshape(len(data.train_labels), -1), data.train_labels
    w, b = Parameter(np.zeros((x.shape[1], 10), np.float32)), Parameter(np.zeros(10, np.float32))
    optimizer = Adam([("w", w), ("b", b)], lr=3e-4)
    rng = np.random.default_rng(0)
    for _ in range(4):
        for chosen in np.split(rng.permutation(len(x)), 100):
            logits, cache = linear_forward(x[chosen], w.data, b.data)
            _, dlogits = softmax_cross_entropy(logits, labels[chosen])
            _, w.grad[...], b.grad[...] = linear_backward(dlogits, cache)
            optimizer.step()
    train = (linear_forward(x, w.data, b.data)[0].argmax(1) == labels).mean()
    test_x = prepare(data.test_images).reshape(len(data.test_labels), -1)
    test = (linear_forward(test_x, w.data, b.data)[0].argmax(1) == data.test_labels).mean()
    assert train > 0.15, "it must have learned something, or the comparison is void"
    assert test < 0.45


def test_how_many_are_drawn_at_a_time_changes_no_image(monkeypatch):
    labels = np.arange(23) % len(SHAPES)
    images = shapes.draw(labels, np.random.default_rng(0))
    monkeypatch.setattr(shapes, "TOGETHER", 7)
    np.testing.assert_array_equal(shapes.draw(labels, np.random.default_rng(0)), images)
