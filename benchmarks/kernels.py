"""Each depthwise and pointwise convolution at each of the model's shapes, beside PyTorch's own op.

PyTorch's is measured in both memory layouts, and the better one counts.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.harness import (
    Contender,
    Measurement,
    Options,
    best,
    paired_ratio,
    require_agreement,
    significant,
    take_turns,
)
from benchmarks.network import Case
from benchmarks.worker import Job
from tinymnv1.model import ModelConfig
from tinymnv1.ops.window import Array, span

CASES = (Case(32, 128, 1.0, stem_stride=1), Case(224, 8, 1.0))
QUICK = (Case(32, 4, 0.25, stem_stride=1),)
OURS, PYTORCH = "tinymnv1", "PyTorch"
LAYOUTS = ("NCHW", "channels_last")
PASSES = {"depthwise": ("forward", "backward"), "pointwise": ("forward", "dx", "dw")}
"""What is measured. "backward" is dx and dw in one call: our depthwise kernel makes both in one pass."""
TURN_SECONDS = 0.03
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Shape:
    """One convolution.

    kind: "depthwise" or "pointwise".  height: of the input, which is square.  cin, cout: channels.
    """

    kind: str
    batch: int
    height: int
    cin: int
    cout: int
    stride: int

    @property
    def title(self) -> str:
        """For a table's row."""
        size = f"{self.batch}x{self.height}x{self.height}x{self.cin}"
        return f"{size} stride {self.stride}" if self.kind == "depthwise" else f"{size} to {self.cout}"

    @property
    def out_height(self) -> int:
        """Height of the output."""
        return span(self.height, 3, self.stride, "symmetric")[0] if self.kind == "depthwise" else self.height

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """In our layout."""
        return (3, 3, self.cin) if self.kind == "depthwise" else (self.cin, self.cout)

    def flop(self, name: str) -> int:
        """Additions and multiplications of a pass."""
        madds = self.batch * self.out_height**2 * int(np.prod(self.weight_shape))
        return 2 * madds * (2 if name == "backward" else 1)

    def bytes(self, name: str) -> int:
        """What a pass must read and write at least: each array once."""
        x, y = self.batch * self.height**2 * self.cin, self.batch * self.out_height**2 * self.cout
        w = int(np.prod(self.weight_shape))
        return 4 * (2 * (x + w) + y if name == "backward" else x + y + w)

    def arrays(self) -> tuple[Array, Array, Array]:
        """x, w and dy, the same in every process, on cache lines as the layers' and PyTorch's own are."""
        rng = np.random.default_rng(4)
        x = rng.standard_normal((self.batch, self.height, self.height, self.cin), np.float32)
        w = rng.standard_normal(self.weight_shape, np.float32)
        dy = rng.standard_normal((self.batch, self.out_height, self.out_height, self.cout), np.float32)
        return on_cache_line(x), w, on_cache_line(dy)


def on_cache_line(a: Array) -> Array:
    """A copy that begins on a cache line."""
    line = 64 // a.itemsize
    buffer = np.empty(a.size + line, a.dtype)
    skip = -(buffer.ctypes.data // a.itemsize) % line
    copy = buffer[skip : skip + a.size].reshape(a.shape)
    copy[...] = a
    return copy


def shapes(case: Case) -> list[Shape]:
    """The distinct depthwise and pointwise convolutions of a network, first to last."""
    config = ModelConfig(width=case.width, stem_stride=case.stem_stride)
    height = span(case.resolution, 3, case.stem_stride, "symmetric")[0]
    found: dict[Shape, None] = {}
    for cin, cout, stride in config.blocks:
        depthwise = Shape("depthwise", case.batch, height, cin, cin, stride)
        height = depthwise.out_height
        found |= {depthwise: None, Shape("pointwise", case.batch, height, cin, cout, 1): None}
    return list(found)


def our_passes(shape: Shape) -> dict[str, Callable[[], Any]]:
    """Ours, by the names in PASSES."""
    from tinymnv1 import kernels
    from tinymnv1.kernels.product import multiply, multiply_transposed

    x, w, dy = shape.arrays()
    if shape.kind == "depthwise":
        _, cache = kernels.depthwise_forward(x, w, shape.stride)
        return {
            "forward": lambda: kernels.depthwise_forward(x, w, shape.stride)[0],
            "backward": lambda: kernels.depthwise_backward(dy, cache),
        }
    x_rows, dy_rows = x.reshape(-1, shape.cin), dy.reshape(-1, shape.cout)  # (N*H*W, Cin), (N*H*W, Cout)
    return {
        "forward": lambda: kernels.pointwise_forward(x, w)[0],
        "dx": lambda: multiply(dy_rows, w.T),  # these two make up pointwise_backward
        "dw": lambda: multiply_transposed(x_rows, dy_rows),
    }


def torch_passes(shape: Shape, layout: str) -> dict[str, Callable[[], Any]]:
    """PyTorch's, by the names in PASSES."""
    import torch
    from torch.nn import functional

    from benchmarks.torch_model import images_to_torch, tensor

    x, w, dy = shape.arrays()
    depthwise = shape.kind == "depthwise"
    weight = tensor(w.transpose(2, 0, 1)[:, None] if depthwise else w.T[:, :, None, None])
    memory = torch.contiguous_format if layout == "NCHW" else torch.channels_last
    weight = weight.contiguous(memory_format=memory)
    image, upstream = images_to_torch(x, layout), images_to_torch(dy, layout)
    stride, padding, groups = shape.stride, int(depthwise), shape.cin if depthwise else 1

    def forward() -> list[torch.Tensor]:
        with torch.no_grad():
            return [functional.conv2d(image, weight, None, stride, padding, 1, groups)]

    def backward(dx: bool, dw: bool) -> list[torch.Tensor]:
        geometry = [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups
        wanted = (dx, dw, False)  # the last is the bias's gradient
        results = torch.ops.aten.convolution_backward(upstream, image, weight, None, *geometry, wanted)
        return [r for r in results if r is not None]

    return {
        "forward": forward,
        "dx": lambda: backward(True, False),
        "dw": lambda: backward(False, True),
        "backward": lambda: backward(True, True),
    }


def key(shape: Shape, name: str) -> str:
    """A pass of a convolution, for people and as a task's name."""
    return f"{shape.kind} {shape.title}, {name}"


def from_torch(name: str, results: Sequence[Any]) -> list[Array]:
    """What PyTorch's pass gave, in our layouts: y and dx as (N, H, W, C), dw as (3, 3, C) or (Cin, Cout)."""
    found = [np.asarray(tensor.permute(0, 2, 3, 1)) for tensor in results]
    if name in ("dw", "backward"):
        dw = np.asarray(results[-1])  # (C, 1, 3, 3) or (Cout, Cin, 1, 1)
        found[-1] = dw[:, :, 0, 0].T if dw.shape[2] == 1 else dw[:, 0].transpose(1, 2, 0)
    return found


def fingerprint(arrays: Any) -> list[float]:
    """Of each array three sums, with random weights that are different for each element: its place matters."""
    found = []
    for a in arrays if isinstance(arrays, tuple | list) else [arrays]:
        rng = np.random.default_rng(5)
        found += [float(np.vdot(rng.standard_normal(a.size, np.float32), np.ravel(a))) for _ in range(3)]
    return found


def ours(threads: int, **case: Any) -> Job:
    """Set up: our kernels, every shape and pass."""
    found: dict[str, Callable[[], Any]] = {}
    for shape in shapes(Case(**case)):
        passes = our_passes(shape)
        found |= {key(shape, name): passes[name] for name in PASSES[shape.kind]}
    return Job(found, {name: fingerprint(task()) for name, task in found.items()})


def pytorch(threads: int, **case: Any) -> Job:
    """Set up: PyTorch's ops, every shape, layout and pass."""
    import torch

    torch.set_num_threads(threads)
    found: dict[str, Callable[[], Any]] = {}
    output = {}
    for shape in shapes(Case(**case)):
        for layout in LAYOUTS:
            passes = torch_passes(shape, layout)
            for name in PASSES[shape.kind]:
                task = f"{key(shape, name)}, {layout}"
                found[task] = passes[name]
                output[task] = fingerprint(from_torch(name, passes[name]()))
    return Job(found, output)


def agree(outputs: dict[str, Any]) -> None:
    """Raise BenchmarkError unless PyTorch's passes give the numbers that ours give."""
    if outputs.keys() != {OURS, PYTORCH}:
        return  # one is missing
    for name, expected in outputs[OURS].items():
        theirs = {f"{name}, {layout}": outputs[PYTORCH][f"{name}, {layout}"] for layout in LAYOUTS}
        require_agreement(theirs, expected, TOLERANCE)


def row(shape: Shape, name: str, measured: dict[str, Measurement]) -> dict[str, Any]:
    """One pass of one convolution: our time and speed, PyTorch's in its better layout, and the paired ratio."""
    task = key(shape, name)
    found: dict[str, Any] = {"kind": shape.kind, "shape": shape.title, "pass": name}
    # Of a contender that broke in a later round there are fewer times: it is missing.
    ours, theirs = ((m.seconds if m.missing is None else {}) for m in (measured[OURS], measured[PYTORCH]))
    if ours:
        median = statistics.median(ours[task])
        found |= {
            "median": significant(median),
            "gflops": significant(shape.flop(name) / median / 1e9),
            "gbs": significant(shape.bytes(name) / median / 1e9),
        }
    if theirs:
        layouts = {layout: theirs[f"{task}, {layout}"] for layout in LAYOUTS}
        layout = best(layouts)
        found |= {"pytorch": significant(statistics.median(layouts[layout])), "layout": layout}
        if ours:
            found["ratio"] = paired_ratio(ours[task], layouts[layout])
    return found


def run(options: Options) -> list[dict[str, Any]]:
    """Measure every case, all its shapes in each turn."""
    results = []
    for case in QUICK if options.quick else CASES:
        settings, threads = case.settings(), options.threads
        pair = [Contender(OURS, ours, threads, settings), Contender(PYTORCH, pytorch, threads, settings)]
        title = f"kernels, {case.title}"
        measured = take_turns(pair, options.rounds, title, TURN_SECONDS, check=agree)
        missing = {name: m.missing for name, m in measured.items() if m.missing is not None}
        rows = [row(shape, name, measured) for shape in shapes(case) for name in PASSES[shape.kind]]
        results.append({"case": case.settings(), "missing": missing, "rows": rows})
    return results
