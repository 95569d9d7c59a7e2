"""MobileNetV1 (Howard et al. 2017, arXiv 1704.04861): the table of its layers, and the network built from it.

stem        3x3 convolution, BN, ReLU6
blocks.0    depthwise 3x3, BN, ReLU6, pointwise, BN, ReLU6      (figure 3, right)
...
blocks.12
pool        global mean
classifier  fully connected
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

import numpy as np

from tinymnv1.errors import CheckpointError, ConfigError
from tinymnv1.layers import (
    Activation,
    BatchNorm,
    Chain,
    Conv2d,
    Depthwise,
    Dropout,
    GlobalAvgPool,
    Linear,
    Pointwise,
    check_batch,
)
from tinymnv1.ops.window import Array, span
from tinymnv1.parameters import Parameter, add_identity, pack

STEM_CHANNELS = 32

# (output channels at width 1.0, stride of the depthwise convolution): table 1 of the paper. Its last row prints "s2"
# for a depthwise convolution whose input and output are both 7x7; the stride there is 1.
BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
)

KERNEL = 3
MAX_WIDTH = 16
INITS = ("slim", "fan-in")
INIT_STD = 0.09  # of the convolutions' initial weights in "slim", as in TensorFlow slim, where the model comes from
CLASSIFIER_STD = 0.01


def scale_channels(channels: int, width: float) -> int:
    """The width multiplier's rule (TensorFlow slim): max(int(width * channels), 8)."""
    return max(int(width * channels), 8)


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides which network it is; a checkpoint stores it.

    num_classes: outputs.  width: the width multiplier alpha, > 0.  in_channels: of the image, 3 for RGB.
    stem_stride: 2 for ImageNet-sized images; 1 is the CIFAR form, for 32x32.
    padding: "symmetric", or "tf" for TensorFlow's SAME, which Google's own weights need.
    bn_eps, bn_momentum: of every batch norm, PyTorch's sense.  dropout: before the classifier, in [0, 1).
    activation: "relu6" or "relu".
    """

    num_classes: int = 1000
    width: float = 1.0
    in_channels: int = 3
    stem_stride: int = 2
    padding: str = "symmetric"
    bn_eps: float = 1e-5
    bn_momentum: float = 0.1
    dropout: float = 0.0
    activation: str = "relu6"

    def __post_init__(self) -> None:
        for name in ("num_classes", "in_channels", "stem_stride"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}")
            object.__setattr__(self, name, int(value))  # plain, also where it came out of an array
        numbers = "width", "bn_eps", "bn_momentum", "dropout"
        for name in numbers:
            if not isinstance(getattr(self, name), int | float | np.integer | np.floating):
                raise ConfigError(f"{name} must be a number, got {getattr(self, name)!r}")
        if not 0 < self.width <= MAX_WIDTH:
            raise ConfigError(f"width must be above 0 and at most {MAX_WIDTH}, got {self.width}")
        if self.padding not in ("symmetric", "tf"):
            raise ConfigError(f'padding must be "symmetric" or "tf", got {self.padding!r}')
        if not 0 < np.float32(self.bn_eps) < np.inf:
            raise ConfigError(f"bn_eps must be above 0, in float32 too, and finite, got {self.bn_eps}")
        if not 0 < self.bn_momentum <= 1:
            raise ConfigError(f"bn_momentum must be in (0, 1], got {self.bn_momentum}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.activation not in ("relu6", "relu"):
            raise ConfigError(f'activation must be "relu6" or "relu", got {self.activation!r}')
        for name in numbers:
            object.__setattr__(self, name, float(getattr(self, name)))

    @property
    def stem_channels(self) -> int:
        """Channels after the stem."""
        return scale_channels(STEM_CHANNELS, self.width)

    @property
    def blocks(self) -> list[tuple[int, int, int]]:
        """(input channels, output channels, stride) of each depthwise separable block."""
        rows, cin = [], self.stem_channels
        for channels, stride in BLOCKS:
            cout = scale_channels(channels, self.width)
            rows.append((cin, cout, stride))
            cin = cout
        return rows


def load_backend(name: str) -> ModuleType:
    """The module behind a backend's name: "numpy" is `tinymnv1.ops`, "numba" is `tinymnv1.kernels`."""
    if name == "numpy":
        from tinymnv1 import ops

        return ops
    if name == "numba":  # imported here: numba takes a second to load, and not everyone needs it
        from tinymnv1 import kernels

        return kernels
    raise ConfigError(f'backend must be "numba" or "numpy", got {name!r}')


class DepthwiseSeparable(Chain):
    """The block of figure 3, right: a depthwise and a pointwise convolution, each with batch norm and ReLU6."""

    def __init__(
        self,
        ops: ModuleType,
        depthwise: Array,
        pointwise: Array,
        stride: int,
        config: ModelConfig,
        identity: float = 0.0,
    ) -> None:
        """depthwise: (3, 3, Cin), pointwise: (Cin, Cout): the initial weights, to which the identity is added.

        stride: of the depthwise convolution.  identity: see `MobileNetV1`.
        """
        depthwise[KERNEL // 2, KERNEL // 2] += identity
        add_identity(pointwise, identity)
        cin, cout = pointwise.shape
        eps, momentum, dtype = config.bn_eps, config.bn_momentum, pointwise.dtype
        super().__init__(
            depthwise=Depthwise(ops, depthwise, stride, config.padding),
            depthwise_bn=BatchNorm(ops, cin, eps, momentum, dtype),
            depthwise_act=Activation(ops, config.activation),
            pointwise=Pointwise(ops, pointwise, identity),
            pointwise_bn=BatchNorm(ops, cout, eps, momentum, dtype),
            pointwise_act=Activation(ops, config.activation),
        )


class MobileNetV1:
    """The network.

        model = MobileNetV1(num_classes=10, width=0.25, stem_stride=1)
        logits = model.forward(x, train=True)                   # x (N, H, W, 3) float32 -> (N, 10)
        loss, dlogits = softmax_cross_entropy(logits, labels)
        dx = model.backward(dlogits)                            # fills p.grad of every parameter

    The first nine arguments are those of `ModelConfig`. backend: "numba" (float32 only) or "numpy".
    dtype: float32 or float64.  rng: a seed or a Generator; it draws the initial weights, and dropout's masks later.

    init: how the convolutions' initial weights are drawn. "slim": normal with standard deviation 0.09, cut off at two
    of them (0.079 is left), whatever the layer. "fan-in": uniform within 1 / sqrt(fan_in) of zero, PyTorch's default;
    fan_in is the number of products in one output, 9 for a depthwise convolution and Cin for a pointwise one.

    Their size does not matter to the output, since a batch norm follows, but it sets the pace. The gradient of a
    scale-free weight falls as 1 / |w|, so a step of SGD turns it by an angle that goes as lr / |w|^2 (van Laarhoven
    2017, arXiv 1706.05350, section 2). "slim" suits the narrow networks. With 512 channels its pointwise matrices are
    3.1 times as large as those of "fan-in" and turn ten times more slowly, its depthwise filters are 0.41 times as
    large and turn six times faster. The classifier has no batch norm; it starts at 0.01, so that the first loss is
    about ln(num_classes).

    identity: c, at least 0. A network of 27 layers without shortcuts must first learn to let an image through. With c
    above 0 every block begins as c I plus the drawn weights: c is added to the middle of each depthwise filter and to
    the diagonal of each pointwise matrix. Weight decay, which would take that away within a few epochs, then pulls
    the matrices towards c I instead of zero. The idea is that of DiracNets (Zagoruyko and Komodakis 2017, arXiv
    1706.00388) and of Hardt and Ma (2017, arXiv 1611.04231): a layer that has nothing to add is the identity.

    Raises ConfigError on values outside these.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        width: float = 1.0,
        in_channels: int = 3,
        stem_stride: int = 2,
        padding: str = "symmetric",
        bn_eps: float = 1e-5,
        bn_momentum: float = 0.1,
        dropout: float = 0.0,
        activation: str = "relu6",
        backend: str = "numba",
        dtype: Any = np.float32,
        rng: int | np.random.Generator = 0,
        init: str = "slim",
        identity: float = 0.0,
    ) -> None:
        self.config = ModelConfig(
            num_classes, width, in_channels, stem_stride, padding, bn_eps, bn_momentum, dropout, activation
        )
        self.backend, self.dtype = backend, np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise ConfigError(f"dtype must be float32 or float64, got {self.dtype}")
        if backend == "numba" and self.dtype != np.float32:
            raise ConfigError('the numba backend is float32 only: use backend="numpy" for float64')
        if init not in INITS:
            raise ConfigError(f"init must be one of {', '.join(INITS)}, got {init!r}")
        if not 0 <= identity < math.inf:
            raise ConfigError(f"identity must be at least 0 and finite, got {identity}")
        ops = load_backend(backend)
        self.rng = np.random.default_rng(rng)
        cfg = self.config
        draw = {"slim": self._truncated_normal, "fan-in": self._uniform}[init]

        self.stem = Chain(
            conv=Conv2d(
                ops,
                draw(KERNEL, KERNEL, in_channels, cfg.stem_channels),
                stem_stride,
                padding,
            ),
            bn=BatchNorm(ops, cfg.stem_channels, bn_eps, bn_momentum, self.dtype),
            act=Activation(ops, activation),
        )
        self.blocks = [
            DepthwiseSeparable(
                ops,
                draw(KERNEL, KERNEL, cin),
                draw(cin, cout),
                stride,
                cfg,
                identity,
            )
            for cin, cout, stride in cfg.blocks
        ]
        features = cfg.blocks[-1][1]
        classifier = self.rng.normal(0, CLASSIFIER_STD, (features, num_classes)).astype(self.dtype)
        self.classifier = Linear(ops, classifier)
        head: dict[str, Any] = {"pool": GlobalAvgPool(ops)}
        if dropout > 0:
            head["dropout"] = Dropout(ops, dropout, self.rng)
        self.net = Chain(
            stem=self.stem,
            **{f"blocks.{i}": block for i, block in enumerate(self.blocks)},
            **head,
            classifier=self.classifier,
        )
        self.buffer = pack((p for _, p in self.parameters()), ops)

    def _truncated_normal(self, *shape: int) -> Array:
        """Normal numbers of standard deviation INIT_STD; those beyond two of it are drawn again."""
        values = self.rng.normal(0, INIT_STD, shape)
        while (far := np.abs(values) > 2 * INIT_STD).any():
            values[far] = self.rng.normal(0, INIT_STD, far.sum())
        return values.astype(self.dtype)

    def _uniform(self, *shape: int) -> Array:
        """Uniform numbers within 1 / sqrt(fan_in) of zero. shape: (3, 3, Cin, Cout), (3, 3, C) or (Cin, Cout)."""
        fan_in = KERNEL * KERNEL if len(shape) == 3 else math.prod(shape[:-1])
        bound = 1 / math.sqrt(fan_in)
        return self.rng.uniform(-bound, bound, shape).astype(self.dtype)

    def forward(self, x: Array, train: bool = False) -> Array:
        """Logits of a batch of images.

        x: (N, H, W, in_channels), of the model's dtype, already normalised; any H and W.
        train: True normalises with the batch's statistics, updates the running ones, applies dropout and keeps what
        `backward` needs; False uses the running statistics.
        Returns (N, num_classes). Raises ConfigError on another shape or dtype, and in training if a batch norm would
        see a single value a channel.
        """
        x = self.check_images(x)
        if train:
            self.check_statistics(*x.shape[:3])
        return self.net.forward(x, train)

    def check_statistics(self, images: int, height: int, width: int) -> None:
        """Raise ConfigError if in training on such a batch a batch norm would see one value a channel. In pixels."""
        for stride in (self.config.stem_stride, *(stride for _, _, stride in self.config.blocks)):
            height, width = (span(size, KERNEL, stride, self.config.padding)[0] for size in (height, width))
        check_batch(images * height * width)

    def check_images(self, x: Array) -> Array:
        """x as an array, if it is a batch of images for this model: (N, H, W, in_channels), of the model's dtype.

        Raises ConfigError if it is not.
        """
        x = np.asarray(x)
        if x.ndim != 4 or x.shape[3] != self.config.in_channels or x.size == 0:
            raise ConfigError(f"images must be (N, H, W, {self.config.in_channels}) and not empty, got {x.shape}")
        if x.dtype != self.dtype:
            raise ConfigError(f"images must be {self.dtype}, got {x.dtype}: normalise them first")
        return x

    def backward(self, dlogits: Array) -> Array:
        """Set p.grad of every parameter from dlogits (N, num_classes), after a forward with train=True.

        Returns the gradient of the images, (N, H, W, in_channels). Raises ConfigError if there was no such forward.
        """
        return self.net.backward(dlogits)

    def parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(name, Parameter) of everything trainable, in a fixed order; names such as "blocks.0.depthwise.weight"."""
        return self.net.named_parameters()

    def state_dict(self) -> dict[str, Array]:
        """Copies of all parameters and running statistics, by name.

        To copy a model, build another from `config_dict` and give it these: a model cannot be pickled or deep-copied.
        """
        state = {name: p.data.copy() for name, p in self.parameters()}
        state.update((name, buffer.copy()) for name, buffer in self.net.named_buffers())
        return state

    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Copy values into the parameters and running statistics. All or nothing: on an error nothing has changed.

        Raises CheckpointError if a name is missing or unknown, a shape differs, or an array does not hold numbers.
        """
        own = {name: p.data for name, p in self.parameters()} | dict(self.net.named_buffers())
        if missing := sorted(own.keys() - state.keys()):
            raise CheckpointError(f"the weights are of another model: {missing[0]} is missing ({len(missing)} in all)")
        if unknown := sorted(state.keys() - own.keys()):
            raise CheckpointError(f"the weights are of another model: {unknown[0]} is unknown ({len(unknown)} in all)")
        for name, array in own.items():
            if state[name].shape != array.shape:
                raise CheckpointError(
                    f"the weights are of another model: {name} has shape {state[name].shape}, not {array.shape}"
                )
            if not np.issubdtype(state[name].dtype, np.number):
                raise CheckpointError(f"the weights are of another model: {name} holds no numbers")
        for name, array in own.items():
            array[...] = state[name]

    def config_dict(self) -> dict[str, Any]:
        """The configuration as plain values: `MobileNetV1(**model.config_dict())` builds the same network."""
        return asdict(self.config)
