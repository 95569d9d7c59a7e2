"""Tests of what other processes compile the first time: that it spares this one work, and that nothing hangs on it."""

import json
import os
import subprocess
import sys

import numba
import numpy as np
import pytest
from engine_cases import images, make_model

from tinymnv1 import train
from tinymnv1.engine import InferenceEngine, TrainingEngine, first_run, training
from tinymnv1.engine.training import Plan
from tinymnv1.errors import DataError
from tinymnv1.kernels import compile
from tinymnv1.kernels.fused_pointwise import pointwise_backward

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="without the compiler nothing is compiled")

FIRST_STEP = """
import json, sys
import numpy as np
from tinymnv1 import MobileNetV1
from tinymnv1.engine import InferenceEngine, TrainingEngine, first_run, training
from tinymnv1.kernels import fused_depthwise, fused_pointwise, inference

first_run.begin(*sys.argv[2:])
model = MobileNetV1(10, 0.25, stem_stride=1, rng=5)
x = np.random.default_rng(0).normal(size=(16, 32, 32, 3)).astype(np.float32)
TrainingEngine(model, sys.argv[1]).forward_backward(x, np.arange(16) % 10)
InferenceEngine(model)(x)
kernels = [
    fused_pointwise.pointwise_forward, fused_pointwise.pointwise_backward, fused_pointwise.weights_gradient,
    fused_depthwise.depthwise_backward, inference.separable_inference, inference.depthwise_inference,
    inference.product_inference,
]
print(json.dumps({kernel.py_func.__name__: sum(kernel.stats.cache_misses.values()) for kernel in kernels}))
"""


@pytest.mark.parametrize(
    ("precision", "begun", "left"),
    [
        ("float32", ["inference"], {"pointwise_forward", "weights_gradient"}),
        ("bfloat16", ["weights' gradient bfloat16", "inference"], {"pointwise_forward"}),
    ],
)
def test_the_first_step_finds_what_another_process_has_compiled(precision, begun, left, tmp_path):
    """With an empty cache: otherwise the first step takes half as long again, and nobody would notice.

    Of the backward pass, one kernel is left to this process, which would otherwise wait, unless it was begun with
    others. The working folder has a package of the same name, which is another one and has another cache.
    """
    (tmp_path / "tinymnv1").mkdir()
    (tmp_path / "tinymnv1" / "__init__.py").touch()
    command = [sys.executable, "-P", "-c", FIRST_STEP, precision, *begun]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    compiled_here = {name for name, misses in json.loads(done.stdout).items() if misses}
    assert compiled_here == left


@pytest.fixture
def nothing_cached(monkeypatch):
    """What `begin` sees in a process that has started no other, and has an empty cache."""
    monkeypatch.setattr(first_run, "_processes", {})
    monkeypatch.setattr(first_run, "worth_a_process", lambda kernel: True)


def test_a_step_does_not_depend_on_the_other_process(nothing_cached, monkeypatch):
    """It may fail: here the other process knows no such part, and then cannot even be started."""
    monkeypatch.setitem(first_run.PARTS, "nonsense", (None, None))
    first_run.begin("nonsense")
    first_run.finish("nonsense")
    assert first_run._processes["nonsense"].returncode == 2
    monkeypatch.setattr(sys, "executable", "no such program")
    x, labels = images(2, 32, 32)
    model = make_model(width=0.25)
    loss, _ = TrainingEngine(model).forward_backward(x, labels)
    assert np.isfinite(loss)
    assert np.abs(model.classifier.params["weight"].grad).max() > 0
    assert list(first_run._processes) == ["nonsense"]


def test_the_weights_gradient_is_compiled_before_there_is_one(monkeypatch):
    """By calling it, if there is use for it: at width 0.125 each chunk of the rows has its own sum instead."""
    called = []
    monkeypatch.setattr(training, "weights_gradient", lambda shape, *arguments: called.append(shape.channels_in))
    for width in (0.125, 0.5):
        TrainingEngine(make_model(width=width))._plan(2, 32, 32).compile_weights_gradient()
    assert called == [256]


def test_a_part_is_begun_once(nothing_cached, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: started.append(command[4:]) or Ended())
    gradient = "weights' gradient float32"
    first_run.begin("inference")
    first_run.begin("inference", gradient, "backward float32")
    first_run.begin(gradient)
    assert started == [["inference"], [gradient, "backward float32"]]


def test_no_process_is_started_for_what_is_cached_or_beside_a_single_thread(monkeypatch):
    """Every later run would otherwise wait a second for it."""
    TrainingEngine(make_model(width=0.25)).forward_backward(*images(2, 32, 32))  # compiled, if it was not before
    monkeypatch.setattr(compile, "get_num_threads", lambda: 2)
    assert not compile.worth_a_process(pointwise_backward)
    never_called = compile.parallel(lambda x: x)
    assert compile.worth_a_process(never_called)
    monkeypatch.setattr(compile, "get_num_threads", lambda: 1)
    assert not compile.worth_a_process(never_called)


class Ended:
    """A process that has ended."""

    def terminate(self):
        pass


def test_an_engine_waits_once_for_what_was_begun(monkeypatch):
    """Else two processes compile the same. Before it waits for the last, it compiles what may have been left to it."""
    waited = []
    monkeypatch.setattr(first_run, "finish", waited.append)
    monkeypatch.setattr(Plan, "compile_weights_gradient", lambda plan: waited.append("compiled"))
    training, inference = (engine(make_model(width=0.25)) for engine in (TrainingEngine, InferenceEngine))
    x, labels = images(2, 32, 32)
    for _ in range(2):
        training.forward_backward(x, labels)
        inference(x)
    assert waited == ["weights' gradient float32", "compiled", "backward float32", "inference"]


@pytest.mark.parametrize(
    ("options", "processes"),
    [
        ([], [("backward float32",), ("weights' gradient float32", "inference")]),
        (["--precision", "bfloat16"], [("backward bfloat16",), ("weights' gradient bfloat16", "inference")]),
        (["--find-lr"], [("backward float32",)]),
        (["--engine", "layers"], [("inference",)]),
        (["--backend", "numpy"], []),
    ],
)
def test_training_begins_to_compile_before_it_reads_the_data(options, processes, monkeypatch, tmp_path):
    """What it will call, and nothing else: here the data cannot be read, so nobody waits for the processes."""
    begun = []
    monkeypatch.setattr(first_run, "begin", lambda *parts: begun.append(parts))
    with pytest.raises(DataError, match="no such folder"):
        train.main(
            ["--data", "cifar10", "--data-dir", str(tmp_path / "absent"), "--out", str(tmp_path / "run"), *options]
        )
    assert begun == processes
