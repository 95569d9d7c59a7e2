"""Optimizers beyond their formulas, which tests/test_model_against_torch.py holds against PyTorch's."""

import numpy as np
import pytest

from tinymnv1 import MobileNetV1, kernels
from tinymnv1.errors import CheckpointError, ConfigError
from tinymnv1.optim import SGD, Adam, AdamW, clip_gradient_norm
from tinymnv1.parameters import Parameter, pack


def parameters(seed=0):
    rng = np.random.default_rng(seed)
    made = {"w": Parameter(rng.normal(size=(3, 4))), "b": Parameter(rng.normal(size=4), decay=False)}
    for p in made.values():
        p.grad[...] = rng.normal(size=p.grad.shape)
    return made


KINDS = [
    lambda p: SGD(p, 0.1, 0.9, True, 0.01),
    lambda p: Adam(p, 0.1, weight_decay=0.01),
    lambda p: AdamW(p, 0.1, weight_decay=0.01),
]


@pytest.mark.parametrize("make", KINDS)
def test_state_carries_on_exactly(make):
    """Three steps, or one step, save, load into a new optimizer, two steps: the same weights bit for bit."""
    straight, broken = parameters(), parameters()
    one = make(straight.items())
    for _ in range(3):
        one.step()
    two = make(broken.items())
    two.step()
    state = two.state_dict()
    three = make(broken.items())
    three.load_state_dict(state)
    three.step()
    three.step()
    for name in straight:
        np.testing.assert_array_equal(straight[name].data, broken[name].data)


@pytest.mark.parametrize("make", KINDS)
def test_weight_decay_leaves_biases_alone(make):
    made = parameters()
    for p in made.values():
        p.grad[...] = 0
    before = {name: p.data.copy() for name, p in made.items()}
    make(made.items()).step()
    np.testing.assert_array_equal(made["b"].data, before["b"])
    assert not np.array_equal(made["w"].data, before["w"])


@pytest.mark.parametrize("make", KINDS)
def test_packed_parameters_take_the_steps_of_loose_ones(make):
    """One flat array, or parameter by parameter: the same weights bit for bit, the same names in a checkpoint."""
    loose, packed = parameters(), parameters()
    pack(packed.values())
    one, two = make(loose.items()), make(packed.items())
    for _ in range(3):
        one.step()
        two.step()
    for name in loose:
        np.testing.assert_array_equal(loose[name].data, packed[name].data)
    ours, theirs = one.state_dict(), two.state_dict()
    assert ours.keys() == theirs.keys() == {f"{s}.{n}" for s in one.slots for n in loose} | {"steps"}
    for key, array in ours.items():
        np.testing.assert_array_equal(array, theirs[key])
        assert array.shape == (loose[key[-1]].shape if key != "steps" else ())


@pytest.mark.parametrize("make", KINDS)
def test_both_backends_take_the_same_steps(make):
    """The kernels' own tests are in tests/kernels/test_optimizer.py; here, that the model's backend is the one used."""
    rng = np.random.default_rng(0)
    models = {b: MobileNetV1(10, 0.1, stem_stride=1, backend=b, rng=1) for b in ("numpy", "numba")}
    optimizers = {b: make(m.parameters()) for b, m in models.items()}
    for _ in range(3):
        grad = rng.normal(size=models["numpy"].buffer.grad.shape)
        for b, model in models.items():
            model.buffer.grad[...] = grad
            clip_gradient_norm(model.parameters(), 5.0)
            optimizers[b].step()
    for (name, a), (_, b) in zip(models["numpy"].parameters(), models["numba"].parameters(), strict=True):
        np.testing.assert_allclose(a.data, b.data, rtol=1e-5, atol=1e-6, err_msg=name)


def test_an_interrupted_step_leaves_the_identity_in_place(monkeypatch):
    model = MobileNetV1(10, 0.1, backend="numpy", identity=0.5)
    before, sgd = model.state_dict(), SGD(model.parameters(), 0.1, weight_decay=1e-3)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(sgd, "_update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sgd.step()
    for name, array in model.state_dict().items():
        np.testing.assert_allclose(array, before[name], atol=1e-7, err_msg=name)


def test_the_kernels_take_the_steps_of_a_numba_model(monkeypatch):
    called = []
    monkeypatch.setattr(kernels, "sgd_step", lambda *arguments: called.append(arguments))
    SGD(MobileNetV1(10, 0.1, backend="numba").parameters(), 0.1).step()
    assert len(called) == 2  # what decays, and what does not
    SGD(MobileNetV1(10, 0.1, backend="numpy").parameters(), 0.1).step()
    assert len(called) == 2


def test_foreign_state_is_refused():
    sgd, adam = SGD(parameters().items(), 0.1), Adam(parameters().items())
    with pytest.raises(CheckpointError, match="SGD"):
        sgd.load_state_dict(adam.state_dict())


def test_state_of_other_shapes_is_refused():
    """The same names, from a network of another width."""
    narrow, wide = (MobileNetV1(10, width, backend="numpy").parameters() for width in (0.1, 0.5))
    state = SGD(narrow, 0.1).state_dict()
    with pytest.raises(CheckpointError, match="does not fit"):
        SGD(wide, 0.1).load_state_dict(state)


@pytest.mark.parametrize("wrong", [{"steps": np.array([1, 2])}, {"steps": np.array("two")}])
def test_a_damaged_state_is_refused_before_anything_changes(wrong):
    optimizer = SGD([("p", Parameter(np.ones(3)))], lr=1.0, momentum=0.9)
    state = optimizer.state_dict()
    with pytest.raises(CheckpointError, match="does not fit"):
        optimizer.load_state_dict({name: array + 1 for name, array in state.items()} | wrong)
    np.testing.assert_array_equal(optimizer.state["momentum"]["p"], 0)


def test_two_parameters_of_one_name_are_refused():
    """Else only the second of two models would be trained."""
    with pytest.raises(ConfigError, match="two parameters of one name"):
        SGD([("p", Parameter(np.ones(3))), ("p", Parameter(np.ones(3)))], lr=1.0)


def test_an_optimizer_made_before_packing_is_refused():
    """It would go on changing the parameters' old places."""
    parameters = [("a", Parameter(np.ones(3))), ("b", Parameter(np.ones(5)))]
    early = SGD(parameters, 0.1)
    pack(p for _, p in parameters)
    with pytest.raises(ConfigError, match=r"[ab] was packed anew after this optimizer was made: make another"):
        early.step()
    assert early.steps == 0
    for _, p in parameters:
        p.grad = np.ones(p.shape)
    SGD(parameters, 0.1).step()
    np.testing.assert_allclose(parameters[1][1].data, 0.9)


def test_clipping_scales_all_gradients_by_one_factor():
    made = parameters()
    before = {name: p.grad.copy() for name, p in made.items()}
    norm = clip_gradient_norm(made.items(), 0.5)
    assert norm == pytest.approx(np.sqrt(sum((g**2).sum() for g in before.values())))
    for name, p in made.items():
        np.testing.assert_allclose(p.grad, before[name] * 0.5 / norm, rtol=1e-5)
    assert clip_gradient_norm(made.items(), 10) == pytest.approx(0.5, rel=1e-5)  # below the limit: left as they are
    np.testing.assert_allclose(made["w"].grad, before["w"] * 0.5 / norm, rtol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: SGD(p, -0.1),
        lambda p: SGD(p, float("nan")),
        lambda p: SGD(p, 0.1, momentum=1.0),
        lambda p: SGD(p, 0.1, nesterov=True),
        lambda p: SGD([], 0.1),
        lambda p: Adam(p, betas=(0.9, 1.0)),
        lambda p: AdamW(p, weight_decay=-1),
        lambda p: Adam(p, eps=0),
        lambda p: clip_gradient_norm(p, 0),
    ],
)
def test_settings_that_cannot_work_are_refused(make):
    with pytest.raises(ConfigError):
        make(parameters().items())
