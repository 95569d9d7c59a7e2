"""A training step: forward, loss, backward and SGD on a batch that is in memory, beside PyTorch's four ways.

The first steps' losses must agree with PyTorch's, so that all do the same work. With bfloat16, PyTorch's ways are those
of `torch.autocast`, which rounds the factors and the results of all convolutions and of the classifier.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from tqdm import tqdm

from benchmarks.harness import Contender, Options, require_agreement, significant, summarise, take_turns
from benchmarks.network import Case
from benchmarks.worker import Job
from tinymnv1.engine import fastest_precision

CASES = (
    Case(32, 128, 1.0, stem_stride=1, num_classes=10),
    Case(32, 128, 0.25, stem_stride=1, num_classes=10),
    Case(224, 16, 1.0, stem_stride=2, num_classes=10),
    Case(32, 128, 1.0, stem_stride=1, num_classes=10, precision="bfloat16"),
)
QUICK = (Case(32, 16, 0.25, stem_stride=1, num_classes=10),)
OURS = "tinymnv1"
LR, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 5e-4
CHECKED_STEPS = 2  # in float32 the losses part by 1e-3 and more from the third step on
TOLERANCE = {"float32": 1e-3, "bfloat16": 6e-3}
"""Of the loss. A step that changes nothing is seen: at width 1.0 the first lowers the loss by 1.2 to 1.5 % of it."""


def first_losses(step: Callable[[], Any]) -> list[float]:
    """Of the first steps: the second depends on all gradients and on the optimizer."""
    return [float(step()) for _ in range(CHECKED_STEPS)]


def ours(threads: int, fused: bool, **case: Any) -> Job:
    """Set up: an engine on the compiled kernels, and its optimizer."""
    from tinymnv1.engine import LayerEngine, TrainingEngine
    from tinymnv1.optim import SGD

    c = Case(**case)
    model, x, labels = c.model(), c.images(), c.labels()
    engine = TrainingEngine(model, c.precision) if fused else LayerEngine(model)
    optimizer = SGD(model.parameters(), LR, MOMENTUM, weight_decay=WEIGHT_DECAY)

    def step() -> float:
        loss, _ = engine.forward_backward(x, labels)
        optimizer.step()
        return loss

    return Job({"step": step}, first_losses(step))


def pytorch(threads: int, layout: str, compiled: bool, **case: Any) -> Job:
    """Set up: PyTorch with the same weights and images."""
    import torch
    from torch import nn

    from benchmarks.torch_model import TorchMobileNetV1, groups, images_to_torch, in_layout, tensor

    torch.set_num_threads(threads)
    c = Case(**case)
    model = in_layout(TorchMobileNetV1(c.model("numpy")), layout)
    x, labels = images_to_torch(c.images(), layout), tensor(c.labels())
    optimizer = torch.optim.SGD(groups(model), LR, MOMENTUM, weight_decay=WEIGHT_DECAY, fused=True)
    criterion = nn.CrossEntropyLoss()
    forward = torch.compile(model) if compiled else model
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=c.precision == "bfloat16")

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            logits = forward(x)
        loss = criterion(logits.float(), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Job({"step": step}, first_losses(step))


def contenders(case: Case, options: Options) -> list[Contender]:
    """Ours, fused and layer by layer, and PyTorch's four."""
    found = [Contender(OURS, ours, options.threads, case.settings() | {"fused": True})]
    if case.precision == "float32":
        settings = case.settings() | {"fused": False}
        found.append(Contender("tinymnv1, layer by layer", ours, options.threads, settings))
    for compiled in (False, True):
        for layout in ("NCHW", "channels_last"):
            name = f"PyTorch {'compile' if compiled else 'eager'}, {layout}"
            settings = case.settings() | {"layout": layout, "compiled": compiled}
            found.append(Contender(name, pytorch, options.threads, settings))
    return found


def agree(outputs: dict[str, Any], precision: str = "float32") -> None:
    """Raise BenchmarkError unless all contenders' first losses are alike."""
    if outputs:
        require_agreement(outputs, next(iter(outputs.values())), TOLERANCE[precision])


def run(options: Options) -> list[dict[str, Any]]:
    """Measure every case; those in bfloat16 where the processor multiplies it: elsewhere PyTorch takes minutes."""
    results = []
    for case in QUICK if options.quick else CASES:
        if case.precision == "bfloat16" and fastest_precision() != "bfloat16":
            tqdm.write(f"{case.title}: left out, as this processor does not multiply bfloat16", file=sys.stderr)
            continue
        check = partial(agree, precision=case.precision)
        measured = take_turns(contenders(case, options), options.rounds, f"training step, {case.title}", check=check)
        flop = 2 * 3 * case.madds * case.batch  # backward: as much for dx as forward, and as much again for dw
        summary = summarise(measured, OURS)
        for figures in summary.values():
            if "median" in figures:
                figures["images_per_second"] = significant(case.batch / figures["median"])
                figures["gflops"] = significant(flop / figures["median"] / 1e9)
        results.append({"case": case.settings(), "madds": case.madds, "contenders": summary})
    return results
