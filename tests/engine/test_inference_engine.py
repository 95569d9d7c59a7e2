"""The inference engine: the layers' logits, for every shape of network and batch."""

import numpy as np
import pytest
from engine_cases import images, make_model
from numeric import relative_error

from tinymnv1.engine import InferenceEngine, LayerEngine, inference, inference_engine
from tinymnv1.engine.inference import apart
from tinymnv1.errors import ConfigError

TOLERANCE = 1e-5  # of the largest logit; folding the batch norm rounds otherwise than applying it

# settings of the network, then images, height, width
CASES = {
    "width 0.25": ({"width": 0.25}, 3, 32, 32),
    "width 1": ({"width": 1.0, "num_classes": 1000}, 2, 32, 32),
    "17 to 143 channels, relu": ({"width": 0.28, "activation": "relu", "in_channels": 4}, 2, 33, 47),
    "9 to 147 channels, tf": ({"width": 0.288, "padding": "tf"}, 2, 21, 30),
    "stem stride 2": ({"width": 0.25, "stem_stride": 2, "padding": "tf"}, 1, 96, 80),
    "bands, one kernel for two convolutions": ({"width": 0.25, "stem_stride": 2}, 2, 112, 112),
    "bands that are no whole tiles": ({"width": 0.25, "stem_stride": 1}, 3, 45, 57),
    "a large eps": ({"width": 0.25, "bn_eps": 0.3}, 2, 16, 16),
    "1x1 images": ({"width": 0.25, "in_channels": 1}, 5, 1, 1),
    "2x3 images": ({"width": 0.25}, 4, 2, 3),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_are_the_layers(case):
    settings, n, h, w = CASES[case]
    x, _ = images(n, h, w, settings.get("in_channels", 3))
    ours = InferenceEngine(make_model(**settings))(x)
    judge = LayerEngine(make_model("numpy", **settings))(x.astype(np.float64))
    assert ours.shape == judge.shape
    assert ours.dtype == np.float32
    assert relative_error(ours.astype(np.float64), judge) <= TOLERANCE


@pytest.mark.parametrize(("width", "size", "stem_stride"), [(0.25, 112, 2), (0.288, 56, 1), (1.0, 56, 1)])
def test_a_few_images_at_a_time_give_what_all_at_once_give(width, size, stem_stride, monkeypatch):
    """The first steps of seven images: in one go, one by one, and three by three with one left over."""
    model, (x, _) = make_model(width=width, stem_stride=stem_stride), images(7, size, size)
    found = {}
    for name, floats in (("all", 1 << 40), ("one by one", 1), ("three by three", None)):
        if floats is None:
            into, out = (apart(c) for c in (model.config.stem_channels, model.config.blocks[0][1]))
            floats = int(3.5 * (-(-size // stem_stride)) ** 2 * (into + out))
        monkeypatch.setattr(inference, "GROUP_FLOATS", floats)
        engine = InferenceEngine(model)
        found[name] = engine(x)
        (plan,) = engine._plans.values()
        assert len(plan.groups) == {"all": 1, "one by one": 7, "three by three": 3}[name]
        np.testing.assert_array_equal(engine(x[:2]), found[name][:2])
        np.testing.assert_array_equal(engine(x), found[name])
    np.testing.assert_array_equal(found["one by one"], found["all"])
    np.testing.assert_array_equal(found["three by three"], found["all"])
    assert relative_error(found["all"].astype(np.float64), model.forward(x).astype(np.float64)) <= TOLERANCE


def test_any_batch_in_any_order():
    """Plans and buffers are kept between calls: a larger batch, then a smaller one, then another size of image."""
    model = make_model(width=0.25)
    engine = InferenceEngine(model)
    for n, size in ((1, 16), (8, 16), (3, 16), (1, 40), (8, 16), (1, 16)):
        x, _ = images(n, size, size, seed=n + size)
        assert relative_error(engine(x).astype(np.float64), model.forward(x).astype(np.float64)) <= TOLERANCE


def test_results_are_the_callers_own():
    engine = InferenceEngine(make_model(width=0.25))
    (x, _), (other, _) = images(2, 8, 8, seed=1), images(2, 8, 8, seed=2)
    before = x.copy()
    first = engine(x)
    kept = first.copy()
    second = engine(other)
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(engine(x), kept)  # and the same from run to run


def test_weights_are_folded_when_it_is_made():
    model = make_model(width=0.25)
    engine = InferenceEngine(model)
    x, _ = images(2, 8, 8)
    before = engine(x)
    for _, p in model.parameters():
        p.data *= 1.5
    np.testing.assert_array_equal(engine(x), before)
    assert relative_error(InferenceEngine(model)(x), before) > 0.01


def test_nan_stays_nan():
    x, _ = images(2, 8, 8)
    x[0, 3, 3, 1] = np.nan
    logits = InferenceEngine(make_model(width=0.25))(x)
    assert np.isnan(logits[0]).all()
    assert np.isfinite(logits[1]).all()


def test_what_it_refuses():
    engine = InferenceEngine(make_model(width=0.25))
    with pytest.raises(ConfigError, match="images must be"):
        engine(np.zeros((2, 8, 8, 4), np.float32))
    with pytest.raises(ConfigError, match="float32"):
        engine(np.zeros((2, 8, 8, 3)))
    with pytest.raises(ConfigError, match="numba"):
        InferenceEngine(make_model("numpy", width=0.25))


def test_the_numpy_backend_gets_the_layers():
    assert isinstance(inference_engine(make_model("numpy", width=0.25)), LayerEngine)
    assert isinstance(inference_engine(make_model(width=0.25)), InferenceEngine)
