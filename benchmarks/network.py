"""What is run: one network at one size, its images, and its convolutions in the form that other frameworks take."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tinymnv1 import MobileNetV1
from tinymnv1.model import ModelConfig
from tinymnv1.ops.window import Array
from tinymnv1.summary import count_layers


@dataclass(frozen=True)
class Case:
    """A network and a batch: resolution in pixels, images in the batch, and arguments of MobileNetV1.

    precision: of the factors in training, "float32" or "bfloat16".
    """

    resolution: int
    batch: int
    width: float
    stem_stride: int = 2
    num_classes: int = 1000
    precision: str = "float32"

    @property
    def title(self) -> str:
        """For a table's row."""
        title = f"{self.resolution}x{self.resolution}, batch {self.batch}, width {self.width:g}"
        return title if self.precision == "float32" else f"{title}, {self.precision}"

    @property
    def madds(self) -> int:
        """Multiply-adds of one image's forward pass."""
        config = ModelConfig(num_classes=self.num_classes, width=self.width, stem_stride=self.stem_stride)
        return sum(layer.madds for layer in count_layers(config, self.resolution, self.resolution))

    def settings(self) -> dict[str, Any]:
        """As plain values, for a contender's process."""
        return asdict(self)

    def model(self, backend: str = "numba") -> MobileNetV1:
        """The same weights in every process."""
        return MobileNetV1(self.num_classes, self.width, stem_stride=self.stem_stride, backend=backend)

    def trained_model(self, backend: str = "numba") -> MobileNetV1:
        """A model whose batch norms are not the identity, so that it matters whether they were folded rightly."""
        model, rng = self.model(backend), np.random.default_rng(1)
        state = model.state_dict()
        for name, array in state.items():
            if name.endswith(("gamma", "running_var")):
                array *= rng.uniform(0.7, 1.4, array.shape).astype(np.float32)
            elif name.endswith(("beta", "running_mean")):
                array += rng.normal(0, 0.1, array.shape).astype(np.float32)
        model.load_state_dict(state)
        return model

    def images(self) -> Array:
        """(batch, resolution, resolution, 3) float32, the same in every process."""
        shape = (self.batch, self.resolution, self.resolution, 3)
        return np.random.default_rng(2).standard_normal(shape, np.float32)

    def labels(self) -> Array:
        """(batch,) integers."""
        return np.random.default_rng(3).integers(0, self.num_classes, self.batch)


@dataclass(frozen=True)
class Convolution:
    """A convolution and its batch norm. weight: (Cout, Cin / groups, K, K); the batch norm's arrays: (Cout,)."""

    name: str
    weight: Array
    stride: int
    groups: int
    gamma: Array
    beta: Array
    mean: Array
    var: Array

    @property
    def padding(self) -> int:
        """Zeros on each side."""
        return (self.weight.shape[2] - 1) // 2


def convolutions(model: MobileNetV1) -> Iterator[Convolution]:
    """The model's convolutions, first to last, in the layout of PyTorch and ONNX."""
    state = model.state_dict()

    def make(name: str, bn: str, weight: Array, stride: int, groups: int) -> Convolution:
        statistics = (state[f"{bn}.{key}"] for key in ("gamma", "beta", "running_mean", "running_var"))
        return Convolution(name, np.ascontiguousarray(weight), stride, groups, *statistics)

    stem = state["stem.conv.weight"].transpose(3, 2, 0, 1)
    yield make("stem", "stem.bn", stem, model.config.stem_stride, 1)
    for i, (cin, _, stride) in enumerate(model.config.blocks):
        name = f"blocks.{i}.depthwise"
        yield make(name, f"{name}_bn", state[f"{name}.weight"].transpose(2, 0, 1)[:, None], stride, cin)
        name = f"blocks.{i}.pointwise"
        yield make(name, f"{name}_bn", state[f"{name}.weight"].T[:, :, None, None], 1, 1)
