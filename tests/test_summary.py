"""Parameters and multiply-adds against the exact figures for the four widths and four resolutions, and the paper's.

The exact ones were counted from the architecture by hand and agree with TensorFlow slim's and Keras' models.
"""

import numpy as np
import pytest

from tinymnv1 import MobileNetV1, summary
from tinymnv1.errors import ConfigError
from tinymnv1.model import ModelConfig
from tinymnv1.summary import count_layers

PARAMETERS = {1.0: (4_231_976, 4_253_864), 0.75: (2_585_560, 2_601_976), 0.5: (1_331_592, 1_342_536)}
PARAMETERS |= {0.25: (470_072, 475_544)}
MILLION_MADDS = {
    1.0: (568.74, 418.12, 290.68, 186.40),
    0.75: (325.40, 239.27, 166.40, 106.77),
    0.5: (149.50, 109.97, 76.52, 49.16),
    0.25: (41.03, 30.21, 21.06, 13.57),
}


@pytest.mark.parametrize("width", PARAMETERS)
def test_parameters(width):
    rows = count_layers(ModelConfig(width=width), 224, 224)
    trainable = sum(r.parameters for r in rows)
    assert (trainable, trainable + sum(r.statistics for r in rows)) == PARAMETERS[width]
    assert round(trainable / 1e6, 1) == summary.PAPER_PARAMETERS[width]


@pytest.mark.parametrize("width", MILLION_MADDS)
@pytest.mark.parametrize(("place", "resolution"), [(0, 224), (1, 192), (2, 160), (3, 128)])
def test_multiply_adds(width, place, resolution):
    madds = sum(r.madds for r in count_layers(ModelConfig(width=width), resolution, resolution))
    assert round(madds / 1e6, 2) == MILLION_MADDS[width][place]
    # A table entry of the paper is this number, rounded or cut to whole millions.
    if (paper := summary.PAPER_MADDS.get((width, resolution))) is not None:
        assert abs(madds / 1e6 - paper) < 1


def test_the_full_network_to_the_last_unit():
    rows = {r.name: r for r in count_layers(ModelConfig(), 224, 224)}
    assert sum(r.madds for r in rows.values()) == 568_740_352
    assert len([r for r in rows.values() if r.kind != "global mean"]) == 28  # the paper counts 28 layers
    assert rows["stem"].madds == 10_838_016
    assert rows["blocks.1.depthwise"].madds == 1_806_336
    assert rows["blocks.5.pointwise"].madds == 25_690_112
    assert (rows["blocks.12.depthwise"].height, rows["blocks.12.depthwise"].madds) == (7, 451_584)
    assert (rows["classifier"].parameters, rows["classifier"].madds) == (1_025_000, 1_024_000)


@pytest.mark.parametrize(
    ("width", "parameters", "million"), [(1.0, 3_217_226, 46.35), (0.5, 823_722, 12.17), (0.25, 215_642, 3.33)]
)
def test_the_cifar_form(width, parameters, million):
    rows = count_layers(ModelConfig(num_classes=10, width=width, stem_stride=1), 32, 32)
    assert sum(r.parameters for r in rows) == parameters
    assert round(sum(r.madds for r in rows) / 1e6, 2) == million
    assert (rows[-3].height, rows[-3].width) == (2, 2)


def test_cifar_images_with_imagenet_strides():
    rows = count_layers(ModelConfig(num_classes=10), 32, 32)
    assert round(sum(r.madds for r in rows) / 1e6, 2) == 11.60


@pytest.mark.parametrize("padding", ["symmetric", "tf"])
def test_the_count_is_what_the_model_really_has(padding):
    """The table is computed without building the network; here the network is built and measured."""
    model = MobileNetV1(7, 0.3, stem_stride=1, padding=padding, backend="numpy")
    rows = {r.name: r for r in count_layers(model.config, 21, 18)}
    assert sum(p.data.size for _, p in model.parameters()) == sum(r.parameters for r in rows.values())
    x = np.zeros((1, 21, 18, 3), np.float32)
    for name, layer in model.net.layers.items():
        x = layer.forward(x, False)
        row = rows.get(name) or rows.get(f"{name}.pointwise")
        assert x.size == row.height * row.width * row.channels, name


def test_the_command_prints_the_table(capsys):
    assert summary.main(["--width", "0.5", "--resolution", "224"]) == 0
    text = capsys.readouterr().out
    assert "1,331,592" in text
    assert "blocks.12.pointwise" in text
    assert "63.7" in text  # the paper's top-1
    assert summary.main(["--resolution", "33", "--stem-stride", "1", "--num-classes", "3"]) == 0
    text = capsys.readouterr().out
    assert "none to compare with" in text
    assert text.strip() == summary.table(ModelConfig(num_classes=3, stem_stride=1), 33).strip()
    others = (ModelConfig(num_classes=3), 33), (ModelConfig(stem_stride=1), 33), (ModelConfig(3, stem_stride=1), 34)
    assert all(summary.table(*other) not in text for other in others)


@pytest.mark.parametrize("flag", ["--resolution", "--num-classes", "--stem-stride"])
def test_a_wrong_number_is_told_by_its_options_name(flag):
    with pytest.raises(ConfigError, match=f"{flag} must be at least 1, got 0"):
        summary.main([flag, "0"])


def test_bytes_are_four_for_each_number():
    """In float32, of the classifier's 7 logits, 256 x 7 weights and 7 biases."""
    row = next(line for line in summary.table(ModelConfig(7, 0.25), 64).splitlines() if line.startswith("classifier"))
    assert row.split()[-2:] == ["28", "7,196"]
