"""Layers: an op, its parameters, and the cache that its backward pass needs.

A layer is given a backend, which is a module: `tinymnv1.ops` or `tinymnv1.kernels`. It calls the op's forward,
keeps the cache, and in backward fills the `grad` of its parameters and returns the gradient of its input.
"""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from tinymnv1.errors import ConfigError
from tinymnv1.ops.optimizer import average_step
from tinymnv1.ops.window import Array
from tinymnv1.parameters import Parameter


class Layer:
    """What a layer has: parameters, buffers (state that is saved but not trained), forward and backward."""

    def __init__(self) -> None:
        self.params: dict[str, Parameter] = {}
        self.buffers: dict[str, Array] = {}
        self.cache: Any = None

    def forward(self, x: Array, train: bool) -> Array:
        """The layer's output. With train=True it keeps what `backward` needs."""
        raise NotImplementedError

    def backward(self, dy: Array) -> Array:
        """Set every parameter's grad from dy and return dx. Raises ConfigError without a forward(train=True) before."""
        raise NotImplementedError

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(name, Parameter) of this layer, in a fixed order."""
        yield from self.params.items()

    def named_buffers(self) -> Iterator[tuple[str, Array]]:
        """(name, array) of this layer's saved but untrained state."""
        yield from self.buffers.items()

    def take_cache(self) -> Any:
        """The cache of the last training forward, handed out once."""
        if self.cache is None:
            raise ConfigError(f"{type(self).__name__}: backward needs a forward pass with train=True before it")
        cache, self.cache = self.cache, None
        return cache


class Chain(Layer):
    """Layers one after the other, each under a name. Backward walks the same list from its end."""

    def __init__(self, **layers: Layer) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Array, train: bool) -> Array:
        for layer in self.layers.values():
            x = layer.forward(x, train)
        return x

    def backward(self, dy: Array) -> Array:
        for layer in reversed(self.layers.values()):
            dy = layer.backward(dy)
        return dy

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        for name, layer in self.layers.items():
            for suffix, parameter in layer.named_parameters():
                yield f"{name}.{suffix}", parameter

    def named_buffers(self) -> Iterator[tuple[str, Array]]:
        for name, layer in self.layers.items():
            for suffix, buffer in layer.named_buffers():
                yield f"{name}.{suffix}", buffer


class Conv2d(Layer):
    """Ordinary convolution without a bias (the batch norm after it has one)."""

    def __init__(self, ops: ModuleType, weight: Array, stride: int, padding: str) -> None:
        """weight: (KH, KW, Cin, Cout)."""
        super().__init__()
        self.ops, self.stride, self.padding = ops, stride, padding
        self.params["weight"] = Parameter(weight)

    def forward(self, x: Array, train: bool) -> Array:
        y, cache = self.ops.conv2d_forward(x, self.params["weight"].data, self.stride, self.padding)
        self.cache = cache if train else None
        return y  # (N, OH, OW, Cout)

    def backward(self, dy: Array) -> Array:
        dx, self.params["weight"].grad[...] = self.ops.conv2d_backward(dy, self.take_cache())
        return dx


class Depthwise(Layer):
    """One K x K filter per channel, without a bias and without weight decay."""

    def __init__(self, ops: ModuleType, weight: Array, stride: int, padding: str) -> None:
        """weight: (KH, KW, C)."""
        super().__init__()
        self.ops, self.stride, self.padding = ops, stride, padding
        self.params["weight"] = Parameter(weight, decay=False)

    def forward(self, x: Array, train: bool) -> Array:
        y, cache = self.ops.depthwise_forward(x, self.params["weight"].data, self.stride, self.padding)
        self.cache = cache if train else None
        return y  # (N, OH, OW, C)

    def backward(self, dy: Array) -> Array:
        dx, self.params["weight"].grad[...] = self.ops.depthwise_backward(dy, self.take_cache())
        return dx


class Pointwise(Layer):
    """1x1 convolution without a bias."""

    def __init__(self, ops: ModuleType, weight: Array, identity: float = 0.0) -> None:
        """weight: (Cin, Cout).  identity: see `Parameter`."""
        super().__init__()
        self.ops = ops
        self.params["weight"] = Parameter(weight, identity=identity)

    def forward(self, x: Array, train: bool) -> Array:
        y, cache = self.ops.pointwise_forward(x, self.params["weight"].data)
        self.cache = cache if train else None
        return y  # (N, H, W, Cout)

    def backward(self, dy: Array) -> Array:
        dx, self.params["weight"].grad[...] = self.ops.pointwise_backward(dy, self.take_cache())
        return dx


def check_batch(count: int) -> None:
    """Raises ConfigError unless there are several values per channel to take statistics of."""
    if count < 2:
        raise ConfigError("batch norm cannot train on one value per channel: use a larger batch or a larger image")


class BatchNorm(Layer):
    """Batch normalisation with running statistics, PyTorch's convention.

    Training normalises with the batch's biased variance, and moves the running statistics towards the batch's mean and
    unbiased variance:  running = (1 - momentum) * running + momentum * batch.  Evaluation uses the running ones.
    """

    def __init__(
        self, ops: ModuleType, channels: int, eps: float = 1e-5, momentum: float = 0.1, dtype: Any = np.float32
    ) -> None:
        super().__init__()
        self.ops, self.eps, self.momentum = ops, eps, momentum
        self.params["gamma"] = Parameter(np.ones(channels, dtype), decay=False)
        self.params["beta"] = Parameter(np.zeros(channels, dtype), decay=False)
        self.buffers["running_mean"] = np.zeros(channels, dtype)
        self.buffers["running_var"] = np.ones(channels, dtype)

    def forward(self, x: Array, train: bool) -> Array:
        gamma, beta = self.params["gamma"].data, self.params["beta"].data
        running_mean, running_var = self.buffers["running_mean"], self.buffers["running_var"]
        if not train:
            self.cache = None
            return self.ops.batchnorm_inference(x, gamma, beta, running_mean, running_var, self.eps)
        count = x.size // x.shape[-1]  # values per channel
        check_batch(count)
        y, self.cache, mean, var = self.ops.batchnorm_forward(x, gamma, beta, self.eps)
        average_step(running_mean, mean, 1 - self.momentum)
        average_step(running_var, var * (count / (count - 1)), 1 - self.momentum)
        return y  # (N, H, W, C)

    def backward(self, dy: Array) -> Array:
        dx, self.params["gamma"].grad[...], self.params["beta"].grad[...] = self.ops.batchnorm_backward(
            dy, self.take_cache()
        )
        return dx


class Activation(Layer):
    """ReLU6 or ReLU."""

    def __init__(self, ops: ModuleType, name: str) -> None:
        """name: "relu6" or "relu"."""
        super().__init__()
        if name not in ("relu6", "relu"):
            raise ConfigError(f'activation must be "relu6" or "relu", got {name!r}')
        self._forward = getattr(ops, f"{name}_forward")
        self._backward = getattr(ops, f"{name}_backward")

    def forward(self, x: Array, train: bool) -> Array:
        y, cache = self._forward(x)
        self.cache = cache if train else None
        return y

    def backward(self, dy: Array) -> Array:
        return self._backward(dy, self.take_cache())


class GlobalAvgPool(Layer):
    """The mean of each channel: (N, H, W, C) to (N, C), whatever H and W are."""

    def __init__(self, ops: ModuleType) -> None:
        super().__init__()
        self.ops = ops

    def forward(self, x: Array, train: bool) -> Array:
        y, cache = self.ops.global_avgpool_forward(x)
        self.cache = cache if train else None
        return y

    def backward(self, dy: Array) -> Array:
        return self.ops.global_avgpool_backward(dy, self.take_cache())


class Dropout(Layer):
    """Dropout in training, nothing in evaluation. `rng` is public: a checkpoint saves its state."""

    def __init__(self, ops: ModuleType, p: float, rng: np.random.Generator) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ConfigError(f"dropout must be in [0, 1), got {p}")
        self.ops, self.p, self.rng = ops, p, rng

    def forward(self, x: Array, train: bool) -> Array:
        if not train:
            self.cache = None
            return x
        y, self.cache = self.ops.dropout_forward(x, self.p, self.rng)
        return y

    def backward(self, dy: Array) -> Array:
        return self.ops.dropout_backward(dy, self.take_cache())


class Linear(Layer):
    """Fully connected: (N, Cin) to (N, Cout), with a bias."""

    def __init__(self, ops: ModuleType, weight: Array) -> None:
        """weight: (Cin, Cout). The bias starts at zero."""
        super().__init__()
        self.ops = ops
        self.params["weight"] = Parameter(weight)
        self.params["bias"] = Parameter(np.zeros(weight.shape[1], weight.dtype), decay=False)

    def forward(self, x: Array, train: bool) -> Array:
        y, cache = self.ops.linear_forward(x, self.params["weight"].data, self.params["bias"].data)
        self.cache = cache if train else None
        return y

    def backward(self, dy: Array) -> Array:
        dx, self.params["weight"].grad[...], self.params["bias"].grad[...] = self.ops.linear_backward(
            dy, self.take_cache()
        )
        return dx
