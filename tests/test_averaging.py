"""The moving average of the weights: its formula, in both backends, and a model of its own that leaves the other be."""

import numpy as np
import pytest

from tinymnv1 import MobileNetV1
from tinymnv1.averaging import WeightAverage
from tinymnv1.errors import ConfigError


def wander(model, rng):
    """Other weights and running statistics, as a training step leaves them."""
    model.load_state_dict({k: rng.uniform(0.5, 1.5, v.shape).astype(v.dtype) for k, v in model.state_dict().items()})


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_the_average_is_its_formula(backend):
    """Weights and running statistics, over 30 steps: the first ones forget the initial weights faster."""
    model = MobileNetV1(10, 0.1, stem_stride=1, dropout=0.1, backend=backend)
    average = WeightAverage(model, decay=0.7)
    expected = {name: array.astype(np.float64) for name, array in model.state_dict().items()}
    rng, keeps = np.random.default_rng(0), []
    for step in range(1, 31):
        wander(model, rng)
        before = model.state_dict()
        average.update(step)
        keeps.append(min(0.7, (1 + step) / (10 + step)))
        for name, array in model.state_dict().items():
            np.testing.assert_array_equal(array, before[name], err_msg=name)
            expected[name] = keeps[-1] * expected[name] + (1 - keeps[-1]) * array
        for name, array in average.model.state_dict().items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-5, err_msg=name)
    assert keeps[0] < 0.2 < keeps[5] < keeps[-1] == 0.7


def test_the_average_starts_as_the_model_and_shares_no_memory_with_it():
    model = MobileNetV1(10, 0.1, stem_stride=1, backend="numpy")
    rng = np.random.default_rng(0)
    wander(model, rng)
    average = WeightAverage(model, 0.9)
    for name, array in average.model.state_dict().items():
        np.testing.assert_array_equal(array, model.state_dict()[name], err_msg=name)
    before = average.model.state_dict()
    wander(model, rng)
    for name, array in average.model.state_dict().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_a_decay_of_one_would_never_move():
    model = MobileNetV1(10, 0.1, backend="numpy")
    for decay in (1.0, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="decay"):
            WeightAverage(model, decay)
