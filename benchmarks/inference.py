"""A forward pass at 224x224 beside ONNX Runtime, OpenVINO and PyTorch.

Before anything is timed, every contender's logits are compared with those of the NumPy backend.
"""

from typing import Any

from benchmarks.harness import Contender, Options, require_agreement, significant, summarise, take_turns
from benchmarks.network import Case
from benchmarks.worker import Job

CASES = tuple(Case(224, batch, width) for width in (1.0, 0.5, 0.25) for batch in (1, 8))
QUICK = (Case(96, 1, 0.25), Case(96, 2, 0.25))
OURS = "tinymnv1"
TOLERANCE = 1e-3


def ours(threads: int, **case: Any) -> Job:
    """Set up: the inference engine."""
    from tinymnv1.engine import InferenceEngine

    c = Case(**case)
    engine, x = InferenceEngine(c.trained_model()), c.images()
    return Job({"step": lambda: engine(x)}, engine(x).tolist())


def onnx_runtime(threads: int, **case: Any) -> Job:
    """Set up: ONNX Runtime."""
    import numpy as np
    import onnxruntime

    from benchmarks.onnx_model import onnx_model

    c = Case(**case)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    graph = onnx_model(c.trained_model("numpy"), c.batch, c.resolution).SerializeToString()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    feed = {"images": np.ascontiguousarray(c.images().transpose(0, 3, 1, 2))}
    return Job({"step": lambda: session.run(None, feed)}, session.run(None, feed)[0].tolist())


def openvino(threads: int, **case: Any) -> Job:
    """Set up: OpenVINO, in float32; its default on some processors is bfloat16."""
    import openvino

    from benchmarks.onnx_model import onnx_model

    c = Case(**case)
    graph = onnx_model(c.trained_model("numpy"), c.batch, c.resolution).SerializeToString()
    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(core.read_model(graph), "CPU", settings).create_infer_request()
    request.get_input_tensor().data[:] = c.images().transpose(0, 3, 1, 2)  # OpenVINO's own memory, and it stays so
    request.infer()
    return Job({"step": request.infer}, request.get_output_tensor().data.tolist())


def pytorch(threads: int, compiled: bool, **case: Any) -> Job:
    """Set up: PyTorch in channels_last, its faster layout here; compiled, with the weights frozen into the code."""
    import torch

    from benchmarks.torch_model import TorchMobileNetV1, images_to_torch, in_layout

    torch.set_num_threads(threads)
    c = Case(**case)
    model = in_layout(TorchMobileNetV1(c.trained_model("numpy")).eval(), "channels_last")
    x = images_to_torch(c.images(), "channels_last")
    if compiled:
        model = torch.compile(model, options={"freezing": True})

    def step() -> torch.Tensor:
        with torch.inference_mode():
            return model(x)

    return Job({"step": step}, step().tolist())


def contenders(case: Case, options: Options) -> list[Contender]:
    """Ours and the peers."""
    settings, threads = case.settings(), options.threads
    found = [
        Contender(name, setup, threads, settings)
        for name, setup in ((OURS, ours), ("ONNX Runtime", onnx_runtime), ("OpenVINO", openvino))
    ]
    for name, compiled in (("PyTorch eager", False), ("PyTorch compile", True)):
        found.append(Contender(name, pytorch, threads, settings | {"compiled": compiled}))
    return found


def run(options: Options) -> list[dict[str, Any]]:
    """Measure every case."""
    results = []
    for case in QUICK if options.quick else CASES:
        expected = case.trained_model("numpy").forward(case.images())

        def agree(outputs: dict[str, Any], expected: Any = expected) -> None:
            require_agreement(outputs, expected, TOLERANCE)

        measured = take_turns(contenders(case, options), options.rounds, f"inference, {case.title}", check=agree)
        summary = summarise(measured, OURS)
        for figures in summary.values():
            if "median" in figures:
                figures["gflops"] = significant(2 * case.madds * case.batch / figures["median"] / 1e9)
        results.append({"case": case.settings(), "madds": case.madds, "contenders": summary})
    return results
