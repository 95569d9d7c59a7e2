"""Parameters in their flat buffers: every number has one place, the places do not overlap, and the gaps stay zero."""

import numpy as np
import pytest

from tinymnv1 import MobileNetV1, kernels, ops
from tinymnv1.engine import LayerEngine
from tinymnv1.errors import ConfigError
from tinymnv1.optim import SGD, Adam, AdamW, clip_gradient_norm
from tinymnv1.parameters import ALIGNMENT, Parameter, pack, runs_of

BACKENDS = {"numpy": ops, "numba": kernels}


def model_of(backend="numpy", **options):
    """Width 0.1 has channel counts such as 12 and 25, which leave gaps."""
    return MobileNetV1(10, 0.1, stem_stride=1, backend=backend, **options)


def made(*sizes, decay=True, seed=0):
    rng = np.random.default_rng(seed)
    result = [Parameter(rng.normal(size=size), decay=decay) for size in sizes]
    for p in result:
        p.grad = rng.normal(size=p.shape)
    return result


def gaps(model):
    """Which places of the model's buffer belong to no parameter."""
    free = np.ones(model.buffer.data.size, bool)
    for name, p in model.parameters():
        assert free[p.start : p.start + p.size].all(), f"{name} overlaps another parameter"
        free[p.start : p.start + p.size] = False
    return free


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_has_one_buffer_with_what_decays_in_front(backend):
    model = model_of(backend)
    parameters = [p for _, p in model.parameters()]
    assert all(p.buffer is model.buffer for p in parameters)
    assert model.buffer.ops is BACKENDS[backend]
    assert gaps(model).any()
    for p in parameters:
        for view, flat in ((p.data, model.buffer.data), (p.grad, model.buffer.grad)):
            assert view.flags.c_contiguous
            assert np.shares_memory(view, flat)
            assert view.ctypes.data % (4 * ALIGNMENT) == 0, "not at the start of a cache line"
    assert max(p.start for p in parameters if p.decay) < min(p.start for p in parameters if not p.decay)


def test_packing_keeps_values_and_gradients():
    parameters = [*made((3, 4), 5), *made((2, 2, 7), decay=False, seed=1), *made(16, seed=2)]
    before = [(p.data.copy(), p.grad.copy()) for p in parameters]
    buffer = pack(parameters)
    for p, (data, grad) in zip(parameters, before, strict=True):
        np.testing.assert_array_equal(p.data, data)
        np.testing.assert_array_equal(p.grad, grad)
    assert [p.start for p in parameters] == [0, 16, 48, 32]  # 12, 5 and 16 that decay, then 28
    assert buffer.data.size == 80
    with pytest.raises(ConfigError, match="dtype"):
        pack([*made(3), Parameter(np.zeros(3, np.float32))])


def test_assigning_copies_into_the_buffer():
    """Rebinding instead would leave the optimizer with the old numbers, and training would stop without a word."""
    (p,) = made((3, 4))
    buffer, new = p.buffer, np.arange(12.0).reshape(3, 4)
    p.data = new
    p.grad = 2 * new
    p.data -= 1
    assert p.buffer is buffer
    np.testing.assert_array_equal(buffer.data[:12], np.arange(12) - 1)
    np.testing.assert_array_equal(buffer.grad[:12], 2 * np.arange(12))
    assert not np.shares_memory(p.data, new)
    for wrong in (np.zeros((4, 3)), np.zeros(4), 0.0):  # NumPy would broadcast the last two
        with pytest.raises(ConfigError, match=r"not a parameter of \(3, 4\)"):
            p.data = wrong
        with pytest.raises(ConfigError, match=r"not a parameter of \(3, 4\)"):
            p.grad = wrong


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "make",
    [
        lambda p: SGD(p, 0.1, 0.9, True, 0.01),
        lambda p: Adam(p, 0.1, weight_decay=0.01),
        lambda p: AdamW(p, 0.1, weight_decay=0.01),
    ],
)
def test_the_gaps_stay_zero(backend, make):
    model = model_of(backend)
    engine, optimizer = LayerEngine(model), make(model.parameters())
    rng = np.random.default_rng(0)
    for _ in range(2):
        engine.forward_backward(rng.normal(size=(4, 8, 8, 3)).astype(np.float32), np.arange(4))
        clip_gradient_norm(model.parameters(), 0.1)
        optimizer.step()
    free = gaps(model)
    assert not model.buffer.data[free].any()
    assert not model.buffer.grad[free].any()
    states = {slot: np.concatenate([flat[slot] for flat in optimizer.flat_state]) for slot in optimizer.slots}
    for slot, array in states.items():
        assert not array[free].any(), slot
        assert np.count_nonzero(array) > 0.9 * (~free).sum(), slot


def test_a_model_is_two_runs_and_a_loose_parameter_is_one():
    model = model_of()
    runs = runs_of(model.parameters())
    assert [run.decay for run in runs] == [True, False]
    assert {name for run in runs for name in run.parameters} == dict(model.parameters()).keys()
    assert sum(run.data.size for run in runs) == model.buffer.data.size
    for run in runs:
        for p in run.parameters.values():
            np.testing.assert_array_equal(run.part(run.data, p), p.data)
    loose = {str(i): p for i, p in enumerate(made(3, 16, 20))}
    assert sorted(next(iter(run.parameters)) for run in runs_of(loose.items())) == ["0", "1", "2"]


def test_a_run_ends_where_a_parameter_is_left_out():
    """A run across it would train what the optimizer was not given."""
    parameters = made(3, 16, 20, 5)
    pack(parameters)
    names = dict(zip("abcd", parameters, strict=True))
    frozen = names.pop("b").data.copy()
    optimizer = SGD(names.items(), 0.1, weight_decay=0.1)
    assert [list(run.parameters) for run in optimizer.runs] == [["a"], ["c", "d"]]
    optimizer.step()
    np.testing.assert_array_equal(parameters[1].data, frozen)
    for p, start in zip(parameters, made(3, 16, 20, 5), strict=True):
        if p is not parameters[1]:
            np.testing.assert_allclose(p.data, start.data - 0.1 * (start.grad + 0.1 * start.data))
