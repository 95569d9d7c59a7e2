"""The first run on a machine: other processes compile some of the kernels.

Numba compiles one function at a time, and compiling the engines' kernels takes longer than anything else that a short
first run does. But what one process has compiled, another loads from Numba's cache on disk in a few milliseconds. So
`python -m tinymnv1.engine.first_run PART ...` compiles parts of the kernels, by calling them, while the process that
needs them does something else or compiles others. Should it fail, nothing is lost: whoever finds a kernel missing
compiles it, as always.
"""

import atexit
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tinymnv1
from tinymnv1.cli import CommandParser, run_command
from tinymnv1.kernels.compile import worth_a_process
from tinymnv1.kernels.fused_pointwise import pointwise_backward, weights_gradient
from tinymnv1.kernels.inference import separable_inference
from tinymnv1.model import MobileNetV1

_processes: dict[str, "subprocess.Popen[bytes]"] = {}
"""Those that this one has started, by their part."""


def _compile_backward(precision: str) -> None:
    """All but the gradient of many weights: at this width there are none. Else this process would be the last."""
    from tinymnv1.engine.training import TrainingEngine

    TrainingEngine(MobileNetV1(num_classes=10, width=0.125), precision).compile_backward()


def _compile_weights_gradient(precision: str) -> None:
    from tinymnv1.engine.training import TrainingEngine

    TrainingEngine(MobileNetV1(num_classes=10, width=0.25), precision).compile_weights_gradient()


def _compile_inference() -> None:
    from tinymnv1.engine.inference import InferenceEngine

    model, images = MobileNetV1(num_classes=10, width=0.25), np.zeros((16, 32, 32, 3), np.float32)
    InferenceEngine(model)(images)  # enough of them for all of its kernels


PARTS: dict[str, tuple[Any, Callable[[], None]]] = {
    "backward float32": (pointwise_backward, lambda: _compile_backward("float32")),
    "backward bfloat16": (pointwise_backward, lambda: _compile_backward("bfloat16")),
    "weights' gradient float32": (weights_gradient, lambda: _compile_weights_gradient("float32")),
    "weights' gradient bfloat16": (weights_gradient, lambda: _compile_weights_gradient("bfloat16")),
    "inference": (separable_inference, _compile_inference),
}
"""Name -> (one of its kernels, what compiles them all)."""


def begin(*parts: str) -> None:
    """Let another process compile these, one after the other, as far as they are worth one. They are names in PARTS.

    It ends with this process, if not before.
    """
    parts = tuple(part for part in parts if part not in _processes and worth_a_process(PARTS[part][0]))
    if not parts:
        return
    package = str(Path(tinymnv1.__file__).parent.parent)  # this very copy, wherever the caller found it
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    nowhere = subprocess.DEVNULL
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tinymnv1.engine.first_run", *parts],  # -P: not from the working folder
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            stdin=nowhere,
            stdout=nowhere,
            stderr=nowhere,
        )
    except OSError:
        return
    _processes.update(dict.fromkeys(parts, process))
    atexit.register(process.terminate)


def finish(part: str) -> None:
    """Wait until `part` is compiled, if it was begun, and all that was begun with it."""
    if part in _processes:
        _processes[part].wait()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = CommandParser(
        prog="python -m tinymnv1.engine.first_run",
        description="Compile some of the engines' kernels into Numba's cache on disk, for a process that needs them.",
    )
    parser.add_argument("parts", choices=tuple(PARTS), nargs="+", metavar="PART", help=f"one of {', '.join(PARTS)}")
    for part in parser.parse_args(argv).parts:
        PARTS[part][1]()
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
