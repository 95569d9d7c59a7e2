"""The model as a user meets it: names, state, errors, and the checks to make before any training."""

import json
import math

import numpy as np
import pytest
from numeric import relative_error

from tinymnv1 import MobileNetV1, softmax_cross_entropy
from tinymnv1.engine import LayerEngine
from tinymnv1.errors import CheckpointError, ConfigError
from tinymnv1.layers import BatchNorm
from tinymnv1.model import load_backend


def small(**options):
    return MobileNetV1(**({"num_classes": 10, "width": 0.25, "stem_stride": 1, "backend": "numpy"} | options))


def test_parameters_have_readable_names_and_the_right_decay():
    named = dict(small().parameters())
    assert list(named)[:6] == [
        "stem.conv.weight",
        "stem.bn.gamma",
        "stem.bn.beta",
        "blocks.0.depthwise.weight",
        "blocks.0.depthwise_bn.gamma",
        "blocks.0.depthwise_bn.beta",
    ]
    assert list(named)[-2:] == ["classifier.weight", "classifier.bias"]
    assert len(named) == 3 + 13 * 6 + 2
    for name, p in named.items():
        decays = name in ("stem.conv.weight", "classifier.weight") or name.endswith("pointwise.weight")
        assert p.decay == decays, name


def test_channels_follow_slims_rule():
    """max(int(width * c), 8): width 0.1 would give the stem 3 channels."""
    model = small(width=0.1)
    assert dict(model.parameters())["stem.conv.weight"].data.shape == (3, 3, 3, 8)
    assert dict(model.parameters())["blocks.12.pointwise.weight"].data.shape == (102, 102)


@pytest.mark.parametrize("classes", [10, 1000])
def test_the_first_loss_is_ln_of_the_classes(classes):
    """An untrained model knows nothing: anything else means that the classifier or the loss is scaled wrongly."""
    model = small(num_classes=classes)
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(32, 32, 32, 3)).astype(np.float32), rng.integers(0, classes, 32)
    loss, _ = softmax_cross_entropy(model.forward(x, train=True), labels)
    assert loss == pytest.approx(math.log(classes), rel=0.02)


def test_initial_weights_have_the_spread_they_are_said_to_have():
    """slim: one standard deviation for all, cut off at two. fan-in: uniform, so the bound and bound / sqrt(3)."""
    cut = 0.8796  # standard deviation of a normal number that is cut off at two standard deviations
    for name, p in small(width=1.0, init="slim").parameters():
        if name.endswith(("conv.weight", "depthwise.weight", "pointwise.weight")):
            assert np.abs(p.data).max() <= 2 * 0.09
            assert p.data.std() == pytest.approx(0.09 * cut, rel=4 / math.sqrt(2 * p.size)), name
    for name, p in small(width=1.0, init="fan-in").parameters():
        if name.endswith(("conv.weight", "depthwise.weight", "pointwise.weight")):
            bound = {3: 1 / 3, 4: 27**-0.5, 2: len(p.data) ** -0.5}[p.data.ndim]
            assert 0.95 * bound < np.abs(p.data).max() <= bound * (1 + 1e-6), name
            assert p.data.std() == pytest.approx(bound / math.sqrt(3), rel=4 / math.sqrt(2 * p.size)), name
    with pytest.raises(ConfigError, match="init must be one of slim, fan-in, got 'he'"):
        small(init="he")


def test_the_identity_is_added_to_the_initial_weights_of_every_block():
    """In the middle of each depthwise filter, and on each pointwise matrix's diagonal: a block copies its input."""
    for (name, a), (_, b) in zip(small().parameters(), small(identity=0.5).parameters(), strict=True):
        expected = a.data.copy()
        if name.endswith("depthwise.weight"):
            expected[1, 1] += 0.5
        if name.endswith("pointwise.weight"):
            cin, cout = expected.shape
            expected += 0.5 * np.tile(np.eye(cin, dtype=np.float32), cout // cin)
        np.testing.assert_array_equal(b.data, expected, err_msg=name)
        assert b.identity == (0.5 if name.endswith("pointwise.weight") else 0), name
    with pytest.raises(ConfigError, match="identity must be at least 0 and finite, got -1"):
        small(identity=-1)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (32, 32), (50, 33)])
@pytest.mark.parametrize("stem_stride", [1, 2])
def test_any_input_size_works(size, stem_stride):
    model = small(stem_stride=stem_stride)
    assert model.forward(np.zeros((2, *size, 3), np.float32)).shape == (2, 10)


def test_evaluation_gives_an_image_the_same_result_alone_and_in_a_batch():
    """A network left in training mode would use the other images' statistics."""
    model = small()
    x = np.random.default_rng(0).normal(size=(5, 16, 16, 3)).astype(np.float32)
    model.forward(x, train=True)
    together = model.forward(x)
    alone = np.concatenate([model.forward(x[i : i + 1]) for i in range(5)])
    assert relative_error(together, alone) < 1e-5


def test_backends_agree_on_loss_and_logits():
    """Gradients are compared in tests/test_model_against_torch.py, where no value lies near a kink of ReLU6."""
    x = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype(np.float32)
    labels = np.arange(8) % 10
    (loss, logits), (loss2, logits2) = (
        LayerEngine(small(backend=backend)).forward_backward(x, labels, 0.1) for backend in ("numpy", "numba")
    )
    assert loss == pytest.approx(loss2, rel=1e-5)
    assert relative_error(logits, logits2) < 1e-4


def test_gradients_are_set_not_added():
    model = small()
    engine = LayerEngine(model)
    x, labels = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32), np.arange(4)
    engine.forward_backward(x, labels)
    first = {name: p.grad.copy() for name, p in model.parameters()}
    engine.forward_backward(x, labels)
    for name, p in model.parameters():
        np.testing.assert_array_equal(p.grad, first[name])


def test_state_dict_round_trip_is_a_copy():
    model, other = small(rng=1), small(rng=2)
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    model.forward(x, train=True)  # moves the running statistics
    state = model.state_dict()
    other.load_state_dict(state)
    np.testing.assert_array_equal(model.forward(x), other.forward(x))
    state["classifier.bias"][:] = 5
    assert not model.state_dict()["classifier.bias"].any()


def test_the_configuration_can_be_written_down_whatever_it_came_from():
    model = small(num_classes=np.int64(10), width=np.float32(0.25), dropout=np.float64(0.5))
    again = small(**json.loads(json.dumps(model.config_dict())))
    assert again.config == model.config


def test_load_state_dict_is_all_or_nothing():
    model, wider = small(), small(width=0.5)
    before = model.state_dict()
    with pytest.raises(CheckpointError, match="shape"):
        model.load_state_dict(wider.state_dict())
    with pytest.raises(CheckpointError, match="missing"):
        model.load_state_dict({k: v for k, v in before.items() if k != "stem.bn.beta"})
    with pytest.raises(CheckpointError, match="unknown"):
        model.load_state_dict(before | {"stem.bias": np.zeros(8)})
    words = {"classifier.bias": np.full(before["classifier.bias"].shape, "word")}
    with pytest.raises(CheckpointError, match=r"classifier\.bias holds no numbers"):
        model.load_state_dict({name: array + 1 for name, array in before.items()} | words)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_dropout_acts_in_training_only():
    model = small(dropout=0.5)
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    assert not np.array_equal(model.forward(x, train=True), model.forward(x, train=True))
    np.testing.assert_array_equal(model.forward(x), model.forward(x))


def test_dropout_drops_the_share_it_is_said_to():
    """The classifier is the identity here, so the logits are the features: some are zero with dropout, not without."""
    features = small().classifier.params["weight"].data.shape[0]
    x = np.random.default_rng(0).normal(size=(20, 8, 8, 3)).astype(np.float32)
    whole, thinned = (small(num_classes=features, dropout=p) for p in (0.0, 0.2))
    for model in (whole, thinned):
        model.classifier.params["weight"].data[...] = np.eye(features)
    kept = whole.forward(x, train=True)
    found = thinned.forward(x, train=True)
    assert (found[kept != 0] == 0).mean() == pytest.approx(0.2, abs=0.03)
    np.testing.assert_allclose(found[found != 0], kept[found != 0] / 0.8, rtol=1e-5)


def test_relu_is_the_papers_activation_and_relu6_the_default():
    x = 100 * np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    assert not np.array_equal(small(activation="relu").forward(x), small().forward(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width"),
        ({"width": float("nan")}, "width"),
        ({"width": "0.5"}, "width must be a number"),
        ({"num_classes": 0}, "num_classes"),
        ({"num_classes": True}, "num_classes"),
        ({"stem_stride": 0}, "stem_stride"),
        ({"padding": "valid"}, "padding"),
        ({"dropout": 1.0}, "dropout"),
        ({"activation": "swish"}, "activation"),
        ({"bn_momentum": 0}, "bn_momentum"),
        ({"bn_eps": 1e-50}, "bn_eps"),
        ({"bn_eps": np.inf}, "bn_eps"),
        ({"bn_eps": 0}, "bn_eps"),
        ({"backend": "cuda"}, "backend"),
        ({"backend": "numba", "dtype": np.float64}, "float32 only"),
        ({"dtype": np.float16}, "dtype"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        small(**options)


def test_images_that_do_not_fit_are_refused():
    model = small()
    with pytest.raises(ConfigError, match=r"\(N, H, W, 3\)"):
        model.forward(np.zeros((2, 3, 8, 8), np.float32))
    with pytest.raises(ConfigError, match="and not empty"):
        model.forward(np.zeros((0, 8, 8, 3), np.float32))
    with pytest.raises(ConfigError, match="normalise"):
        model.forward(np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(ConfigError, match="one value per channel"):
        model.forward(np.zeros((1, 1, 1, 3), np.float32), train=True)
    with pytest.raises(ConfigError, match="backward needs a forward"):
        model.backward(np.zeros((2, 10), np.float32))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_batch_norm_that_keeps_nothing_forgets_a_large_batch(backend):
    """With a momentum of 1 the running statistics are the last batch's, whatever the one before was."""
    layer = BatchNorm(load_backend(backend), 3, momentum=1.0)
    x = np.random.default_rng(0).normal(size=(8, 5, 5, 3)).astype(np.float32)
    layer.forward(1000 * x, True)
    layer.forward(x / 10, True)
    np.testing.assert_allclose(layer.buffers["running_var"], (x / 10).var(axis=(0, 1, 2), ddof=1), rtol=1e-5)
