"""Parameters, and the flat buffers that hold their numbers.

    buffer.data   [ stem.conv.weight | 0 0 | blocks.0.pointwise.weight | ... ]      one array for a whole model
    buffer.grad   [ the same places, the gradients                           ]
                    ^ p.start                ^ p.stop, the next parameter's start

A `Parameter` reads and writes its part of the two arrays. What treats all numbers alike (an optimizer's step, clipping,
a sum over machines) takes the flat arrays instead, and needs one call where a model has 83 parameters.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from tinymnv1 import ops as numpy_ops
from tinymnv1.errors import ConfigError
from tinymnv1.ops.window import Array

ALIGNMENT = 16  # numbers: as float32 a cache line of 64 bytes, and the widest vector (AVX-512)


def aligned_zeros(size: int, dtype: Any) -> Array:
    """(size,) zeros, of which the first lies on a multiple of ALIGNMENT numbers in memory."""
    dtype = np.dtype(dtype)
    room = np.zeros(size + ALIGNMENT, dtype)
    first = -room.ctypes.data % (ALIGNMENT * dtype.itemsize) // dtype.itemsize
    return room[first : first + size]


def add_identity(matrix: Array, times: float) -> None:
    """matrix += times * identity, in place. matrix: (Cin, Cout), as a pointwise convolution's.

    With more outputs than inputs the identity stands there again and again: output j gets input j mod Cin.
    """
    outputs = np.arange(matrix.shape[1])
    matrix[outputs % matrix.shape[0], outputs] += times


class ParameterBuffer:
    """data, grad: (size,), what the parameters in it are parts of; zero between them.

    ops: the backend whose optimizer steps may be used on it, `tinymnv1.ops` or `tinymnv1.kernels`.
    """

    def __init__(self, size: int, dtype: Any, ops: ModuleType = numpy_ops) -> None:
        self.data, self.grad, self.ops = aligned_zeros(size, dtype), aligned_zeros(size, dtype), ops


class Parameter:
    """An array that training changes.

    data: the values.  grad: of the same shape; every backward pass sets it anew (nothing accumulates).
    decay: whether weight decay applies. False for batch norm, biases and depthwise filters: the paper (section 3.2)
    found that depthwise filters, having so few parameters, want very little decay or none.
    identity: weight decay pulls a matrix towards so many times the identity (`add_identity`) instead of towards zero.
    buffer, start: where the numbers are. A new parameter has a buffer of its own; `pack` moves it to a shared one.

    data and grad are C-contiguous views into the buffer. Assigning to them copies the new values to that place.
    """

    def __init__(self, data: Array, decay: bool = True, identity: float = 0.0) -> None:
        self.shape, self.size, self.decay, self.identity = data.shape, data.size, decay, identity
        self.start = 0
        self.buffer = ParameterBuffer(self.stop, data.dtype)
        self.data = data

    @property
    def stop(self) -> int:
        """Where the next parameter starts: the end of this one, rounded up to a multiple of ALIGNMENT."""
        return self.start + -(-self.size // ALIGNMENT) * ALIGNMENT

    @property
    def data(self) -> Array:
        """The values."""
        return self.buffer.data[self.start : self.start + self.size].reshape(self.shape)

    @data.setter
    def data(self, values: Array) -> None:
        self.data[...] = self._of_this_shape(values)

    @property
    def grad(self) -> Array:
        """The gradient of the loss."""
        return self.buffer.grad[self.start : self.start + self.size].reshape(self.shape)

    @grad.setter
    def grad(self, values: Array) -> None:
        self.grad[...] = self._of_this_shape(values)

    def _of_this_shape(self, values: Array) -> Array:
        if np.shape(values) != self.shape:
            raise ConfigError(f"an array of {np.shape(values)} is not a parameter of {self.shape}")
        return values


def pack(parameters: Iterable[Parameter], ops: ModuleType = numpy_ops) -> ParameterBuffer:
    """Move parameters into one buffer, and return it: those that decay first, then the others, in the order given.

    Each starts on a multiple of ALIGNMENT numbers. Arrays taken from p.data or p.grad before are no longer theirs.
    ops: the backend for their optimizer. Raises ConfigError unless all have one dtype.
    """
    ordered = sorted(parameters, key=lambda p: not p.decay)
    dtypes = {p.data.dtype for p in ordered}
    if len(dtypes) != 1:
        raise ConfigError(f"parameters must have one dtype to be packed, got {sorted(map(str, dtypes))}")
    buffer = ParameterBuffer(sum(p.stop - p.start for p in ordered), dtypes.pop(), ops)
    start = 0
    for p in ordered:
        data, grad = p.data, p.grad
        p.buffer, p.start = buffer, start
        p.data, p.grad = data, grad
        start = p.stop
    return buffer


@dataclass
class Run:
    """Parameters that lie one after the other in one buffer and agree on `decay`."""

    buffer: ParameterBuffer
    decay: bool
    start: int
    stop: int
    parameters: dict[str, Parameter] = field(default_factory=dict)

    @property
    def data(self) -> Array:
        """(stop - start,): the values of all of them, and the zeros between."""
        return self.buffer.data[self.start : self.stop]

    @property
    def grad(self) -> Array:
        """(stop - start,): their gradients."""
        return self.buffer.grad[self.start : self.stop]

    def part(self, array: Array, p: Parameter) -> Array:
        """The view of p's shape into an array that is laid out as the run is."""
        first = p.start - self.start
        return array[first : first + p.size].reshape(p.shape)


def runs_of(parameters: Iterable[tuple[str, Parameter]]) -> list[Run]:
    """Named parameters as the fewest runs: two for a whole model (what decays, and what does not)."""
    runs: list[Run] = []
    for name, p in sorted(parameters, key=lambda item: (id(item[1].buffer), item[1].start)):
        last = runs[-1] if runs else None
        if last is None or (last.buffer, last.decay, last.stop) != (p.buffer, p.decay, p.start):
            last = Run(p.buffer, p.decay, p.start, p.stop)
            runs.append(last)
        last.parameters[name] = p
        last.stop = p.stop
    return runs
