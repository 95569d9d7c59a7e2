"""The microscope shows what the ops compute, step by step, and nothing else."""

import io
import sys

import numpy as np
import pytest
from matplotlib import rc_context

from tinymnv1 import microscope
from tinymnv1.errors import ConfigError
from tinymnv1.microscope import BACKWARD, FORWARD_DEPTHWISE, FORWARD_POINTWISE, draw, slider, steps, strip
from tinymnv1.ops import depthwise_backward, depthwise_forward, pointwise_forward
from tinymnv1.plots import notebook_style


@pytest.fixture(params=[1, 2], ids=["stride 1", "stride 2"])
def scene(request):
    """Arrays, what the ops make of them, and the microscope's frames by kind."""
    rng = np.random.default_rng(3)
    x, w, p = rng.normal(size=(5, 6, 2)), rng.normal(size=(3, 3, 2)), rng.normal(size=(2, 4))
    middle, cache = depthwise_forward(x[None], w, request.param)
    dy = rng.normal(size=middle.shape)
    dx, dw = depthwise_backward(dy, cache)
    frames = steps(x, w, p, dy[0], request.param)
    kinds = {k: [f for f in frames if f.kind == k] for k in (FORWARD_DEPTHWISE, FORWARD_POINTWISE, BACKWARD)}
    return frames, kinds, middle[0], pointwise_forward(middle, p)[0][0], dx[0], dw


def test_there_is_a_step_for_every_output_in_order(scene):
    frames, kinds, middle, output, *_ = scene
    assert [len(kinds[k]) for k in kinds] == [middle.size, output[..., 0].size, middle.size]
    assert [f.kind for f in frames] == [k for k in kinds for _ in kinds[k]]


def test_the_depthwise_steps_end_with_the_ops_output(scene):
    _, kinds, middle, *_ = scene
    per_channel = middle[..., 0].size
    for c in range(2):
        last = kinds[FORWARD_DEPTHWISE][(c + 1) * per_channel - 1].panels[-1].values
        np.testing.assert_allclose(last, middle[..., c], atol=1e-12)
    first = kinds[FORWARD_DEPTHWISE][0].panels
    assert np.isnan(first[-1].values).sum() == per_channel - 1
    np.testing.assert_allclose(first[2].values.sum(), first[-1].values[0, 0], atol=1e-12)


def test_the_pointwise_steps_end_with_the_ops_output(scene):
    _, kinds, _, output, *_ = scene
    np.testing.assert_allclose(kinds[FORWARD_POINTWISE][-1].panels[-1].values, output[..., 0], atol=1e-12)
    np.testing.assert_allclose(kinds[FORWARD_POINTWISE][-1].panels[-2].values[0], output[-1, -1], atol=1e-12)


def test_the_backward_steps_end_with_the_ops_gradients(scene):
    _, kinds, middle, _, dx, dw = scene
    per_channel = middle[..., 0].size
    for c in range(2):
        panels = kinds[BACKWARD][(c + 1) * per_channel - 1].panels
        np.testing.assert_allclose(panels[1].values[1:6, 1:7], dx[..., c], atol=1e-12)
        np.testing.assert_allclose(panels[3].values, dw[..., c], atol=1e-12)


def test_the_multiply_adds_are_those_of_the_formulas():
    frames = steps(np.ones((4, 4, 2)), np.ones((3, 3, 2)), np.ones((2, 5)), np.ones((4, 4, 2)))
    forward, backward = frames[:48], frames[48:]  # 16 * 2 depthwise and 16 pointwise; 16 * 2 backward
    assert "9 of 448 multiply-adds; a full convolution: 1,440" in forward[0].caption  # 16 * 2 * (9 + 5), 16 * 2 * 9 * 5
    assert "448 of 448" in forward[-1].caption
    assert "; 18 of 576 multiply-adds" in backward[0].caption  # nine into dx, nine into dw; 16 * 2 times that
    assert "576 of 576" in backward[-1].caption


def test_pictures_have_a_panel_for_each_array(scene):
    frames, kinds, *_ = scene
    assert len(draw(frames[0]).get_axes()) == 4
    assert len(strip([frames[0], kinds[FORWARD_POINTWISE][0], frames[-1]]).get_axes()) == 4 + 5 + 4


def test_the_panels_places_are_fixed_also_in_the_notebooks_style(scene):
    with rc_context():
        notebook_style()
        figure = draw(scene[1][FORWARD_POINTWISE][0])
    figure.savefig(io.BytesIO())  # a layout engine would move them here
    assert {round(axes.get_position(original=True).y1, 9) for axes in figure.get_axes()} == {0.8}  # below the caption


def test_whole_numbers_are_written_out_and_others_rounded():
    frame = steps(np.full((3, 3, 1), 125.0), np.full((3, 3, 1), 0.125), np.ones((1, 1)))[0]
    x, weights = draw(frame).get_axes()[:2]
    assert {text.get_text() for text in x.texts} == {"0", "125"}
    assert {text.get_text() for text in weights.texts} == {"0.12"}


def test_shapes_that_do_not_fit_are_refused():
    x, w = np.ones((4, 4, 2)), np.ones((3, 3, 2))
    with pytest.raises(ConfigError, match="w_pointwise"):
        steps(x, w, np.ones((3, 5)))
    with pytest.raises(ConfigError, match="shape of the depthwise output"):
        steps(x, w, np.ones((2, 5)), np.ones((3, 3, 2)))
    with pytest.raises(ConfigError, match="square kernel"):
        steps(x, np.ones((3, 1, 2)), np.ones((2, 5)))
    with pytest.raises(ConfigError, match="at least one frame"):
        slider([])


def test_the_slider_shows_the_step_it_stands_at_and_draws_it_once(monkeypatch):
    pytest.importorskip("ipywidgets", reason="ipywidgets is not installed")
    drawn = []
    monkeypatch.setattr(microscope, "draw", lambda frame: drawn.append(frame) or draw(frame))
    frames = steps(np.ones((3, 3, 1)), np.ones((3, 3, 1)), np.ones((1, 2)))
    box = slider(frames)
    (_, step), picture = box.children[0].children, box.children[1]
    before = picture.value
    step.value = 4
    assert picture.value != before
    step.value = 0
    assert picture.value == before
    step.value = len(frames) - 1
    assert [frames.index(frame) for frame in drawn] == [0, 4, len(frames) - 1] == [0, 4, step.max]


def test_without_ipywidgets_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ConfigError, match="pip install ipywidgets"):
        slider(steps(np.ones((3, 3, 1)), np.ones((3, 3, 1)), np.ones((1, 2))))
