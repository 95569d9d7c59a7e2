"""The benchmarks: turns and ratios, the same network and the same work in every framework, counts, the machine."""

import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import contenders
import numpy as np
import pytest
import torch
from numeric import relative_error

from benchmarks import growth, harness, inference, kernels, machine, scaling, train_step
from benchmarks.harness import (
    BenchmarkError,
    Contender,
    Measurement,
    Options,
    paired_ratio,
    require_agreement,
    take_turns,
)
from benchmarks.network import Case
from benchmarks.torch_model import TorchMobileNetV1, groups, images_to_torch
from benchmarks.worker import reason

SMALL = Case(32, 2, 0.25, stem_stride=1, num_classes=7)


@pytest.fixture
def importable(monkeypatch):
    """Let a contender's process import tests/contenders.py."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def test_ratios_pair_the_times_of_a_round():
    """The machine became ten times slower in the second round: every paired ratio is 2, the medians' is not."""
    ours, peer = [1.0, 10.0, 10.0], [2.0, 20.0, 2.0]
    assert paired_ratio(ours, peer) == {"median": 2.0, "min": 0.2, "max": 2.0}
    assert np.median(peer) / np.median(ours) == 0.2


def test_contenders_are_measured_in_turn(importable, tmp_path):
    log = tmp_path / "log"
    pair = [
        Contender(name, contenders.writer, threads, {"name": name, "path": str(log)})
        for name, threads in (("A", 1), ("B", 2))
    ]
    measured = take_turns(pair, 3, "test", turn_seconds=0, pause=0)
    order = re.sub(r"(.+\n)\1*", r"\1", log.read_text()).split("\n")[:-1]  # each run of equal lines once
    assert order == ["A 1 1", "B 2 2"] * 4, "the first is the warm-up; then three rounds, each with its own threads"
    assert [len(m.seconds["step"]) for m in measured.values()] == [3, 3]
    assert all(m.output == [1, 2] and m.missing is None for m in measured.values())


def test_a_contender_that_fails_is_missing_and_the_rest_goes_on(importable, tmp_path, capfd):
    several = [
        Contender("absent", contenders.absent, 1),
        Contender("short-lived", contenders.short_lived, 1),
        Contender("later", contenders.breaks_later, 1),
        Contender("sound", contenders.writer, 1, {"name": "sound", "path": str(tmp_path / "log")}),
    ]
    measured = take_turns(several, 2, "test", turn_seconds=0, pause=0)
    assert measured["absent"].missing == "ImportError: cannot import name 'x' from 'library.py'"
    assert measured["short-lived"].missing == "the process ended with status 3"
    assert measured["later"].missing == "ValueError: no more"
    assert len(measured["sound"].seconds["step"]) == 2
    summary = harness.summarise(measured, "sound")
    assert summary["absent"] == {"missing": measured["absent"].missing}
    assert "median" in summary["sound"]


def test_a_wrong_result_stops_the_benchmark(importable, tmp_path):
    def check(outputs):
        require_agreement(outputs, [1.0, 2.1], 1e-3)

    one = [Contender("other", contenders.writer, 1, {"name": "other", "path": str(tmp_path / "log")})]
    with pytest.raises(BenchmarkError, match=r"other computes something else: relative difference 4\.8e-02"):
        take_turns(one, 1, "test", turn_seconds=0, pause=0, check=check)
    for bad in ([1.0], [1.0, np.nan]):
        with pytest.raises(BenchmarkError):
            require_agreement({"x": bad}, [1.0, 2.0], 1e-3)


def test_reasons_name_no_folder():
    for text in (r"C:\Users\me\lib.py is bad", "/home/me/lib.py is bad", "lib.py is bad\nand more"):
        assert reason(OSError(text)) == "OSError: lib.py is bad"


def test_peak_memory_does_not_come_down():
    """In a fresh process: this one may have held more before."""
    code = """
import numpy as np
from benchmarks.worker import peak_bytes
print(peak_bytes())
block = np.ones(1 << 25)
del block
print(peak_bytes())
"""
    lines = subprocess.run([sys.executable, "-c", code], cwd=harness.ROOT, capture_output=True, text=True, check=True)
    before, after = lines.stdout.split()
    if before == "None":
        pytest.skip("this system does not tell a process's peak memory")
    assert 8 << 20 < int(before) < 1 << 30, "the unit is bytes"
    assert 0.95 < (int(after) - int(before)) / (8 << 25) < 1.05


def test_pytorch_has_the_same_network():
    ours = SMALL.trained_model("numpy")
    theirs = TorchMobileNetV1(ours).eval()
    with torch.no_grad():
        logits = theirs(images_to_torch(SMALL.images(), "channels_last")).numpy()
    assert relative_error(logits, ours.forward(SMALL.images())) < 1e-4
    assert relative_error(logits, SMALL.model("numpy").forward(SMALL.images())) > 0.1, "the batch norms must matter"


def test_onnx_has_the_same_network():
    pytest.importorskip("onnx", reason='the ONNX graph needs the "bench" extra')
    runtime = pytest.importorskip("onnxruntime", reason='the ONNX graph is run with the "bench" extra')
    from benchmarks.onnx_model import onnx_model

    model = SMALL.trained_model("numpy")
    graph = onnx_model(model, SMALL.batch, SMALL.resolution).SerializeToString()
    session = runtime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": SMALL.images().transpose(0, 3, 1, 2)})
    assert relative_error(logits, model.forward(SMALL.images())) < 1e-4


@pytest.mark.parametrize("fastest", ["float32", "bfloat16"])
def test_bfloat16_is_measured_where_the_processor_multiplies_it(fastest, monkeypatch, capsys):
    monkeypatch.setattr(train_step, "fastest_precision", lambda: fastest)
    monkeypatch.setattr(train_step, "take_turns", lambda *arguments, **more: {})
    monkeypatch.setattr(train_step, "summarise", lambda measured, ours: {})
    results = train_step.run(harness.Options(1, 1, False))
    assert {result["case"].get("precision", "float32") for result in results} == {"float32", fastest}
    assert ("left out" in capsys.readouterr().err) == (fastest == "float32")


def test_the_training_contenders_start_with_the_same_losses():
    before = torch.get_num_threads()
    outputs = {
        "ours": train_step.ours(before, fused=True, **SMALL.settings()).output,
        "layers": train_step.ours(before, fused=False, **SMALL.settings()).output,
        "PyTorch": train_step.pytorch(before, "NCHW", False, **SMALL.settings()).output,
    }
    train_step.agree(outputs)
    assert abs(outputs["ours"][0] - np.log(7)) < 0.1


def test_the_training_contenders_start_alike_in_bfloat16():
    threads, case = torch.get_num_threads(), train_step.CASES[-1]
    settings = case.settings()
    assert case.precision == "bfloat16"
    outputs = {
        "ours": train_step.ours(threads, fused=True, **settings).output,
        "PyTorch": train_step.pytorch(threads, "NCHW", False, **settings).output,
    }
    train_step.agree(outputs, "bfloat16")
    first, second = outputs["ours"]
    for wrong in ([first, first], [1.01 * first, 1.01 * second]):  # a step without effect, another network
        with pytest.raises(BenchmarkError):
            train_step.agree(outputs | {"wrong": wrong}, "bfloat16")
    in_float32 = train_step.ours(threads, fused=True, **settings | {"precision": "float32"}).output
    assert outputs["ours"] != in_float32


def test_each_op_is_compared_with_the_same_op():
    case = Case(32, 1, 0.25, stem_stride=1)
    threads = torch.get_num_threads()
    outputs = {kernels.OURS: kernels.ours(threads, **case.settings()).output}
    outputs[kernels.PYTORCH] = kernels.pytorch(threads, **case.settings()).output
    kernels.agree(outputs)
    name = next(iter(outputs[kernels.OURS]))
    outputs[kernels.OURS][name] = [1.01 * size for size in outputs[kernels.OURS][name]]
    with pytest.raises(BenchmarkError, match=re.escape(name)):
        kernels.agree(outputs)


def test_what_an_op_gives_is_known_by_where_each_number_stands():
    a = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    right = kernels.fingerprint([a, a])
    require_agreement({"a copy": kernels.fingerprint((a.copy(order="F"), a))}, right, kernels.TOLERANCE)
    for wrong in (a.T, -a, a[::-1], np.roll(a, 1)):
        with pytest.raises(BenchmarkError):
            require_agreement({"wrong": kernels.fingerprint([a, wrong])}, right, kernels.TOLERANCE)


def test_an_op_of_a_contender_that_broke_is_left_out():
    """It has fewer times than there were rounds, which pair with nothing."""
    shape = kernels.Shape("pointwise", 2, 4, 16, 16, stride=1)
    task = kernels.key(shape, "forward")
    ours = Measurement(seconds={task: [1.0, 2.0]})
    theirs = Measurement(seconds={f"{task}, {layout}": [2.0, 4.0] for layout in kernels.LAYOUTS})
    measured = {kernels.OURS: ours, kernels.PYTORCH: theirs}
    assert kernels.row(shape, "forward", measured)["ratio"]["median"] == 2
    broken = Measurement(seconds={name: times[:1] for name, times in theirs.seconds.items()}, missing="killed")
    found = kernels.row(shape, "forward", measured | {kernels.PYTORCH: broken})
    assert found["median"] == 1.5
    assert found.keys().isdisjoint({"ratio", "pytorch"})


def test_operations_and_bytes_of_an_op():
    depthwise = kernels.Shape("depthwise", 2, 8, 16, 16, stride=2)  # 8x8 to 4x4
    x, y, w = 2 * 8 * 8 * 16, 2 * 4 * 4 * 16, 9 * 16
    assert depthwise.flop("forward") == depthwise.flop("dx") == depthwise.flop("backward") / 2 == 2 * 9 * y
    assert depthwise.bytes("forward") == depthwise.bytes("dw") == 4 * (x + w + y)
    assert depthwise.bytes("backward") == 4 * (2 * x + 2 * w + y), "reads x, w, dy; writes dx, dw"
    pointwise = kernels.Shape("pointwise", 2, 8, 16, 32, stride=1)
    assert pointwise.flop("forward") == 2 * (2 * 8 * 8) * 16 * 32
    assert [a.shape for a in pointwise.arrays()] == [(2, 8, 8, 16), (16, 32), (2, 8, 8, 32)]


def test_the_model_has_nine_shapes_of_each_kind():
    for case in kernels.CASES:
        found = kernels.shapes(case)
        assert len(found) == len(set(found)) == 18
        assert found[0].height == (32 if case.resolution == 32 else 112)
        assert found[-1].cout == 1024


def test_pytorch_decays_what_we_decay():
    model = SMALL.model("numpy")
    decaying, others = groups(TorchMobileNetV1(model))
    ours = [p for _, p in model.parameters()]
    assert sum(p.numel() for p in decaying["params"]) == sum(p.data.size for p in ours if p.decay)
    assert sum(p.numel() for p in others["params"]) == sum(p.data.size for p in ours if not p.decay)
    assert others["weight_decay"] == 0
    assert "weight_decay" not in decaying


def test_the_faster_mode_of_pytorch_is_compared():
    ours = Measurement({"step": [1.0, 1.0]})
    theirs = {"eager": Measurement({"step": [2.0, 2.0]}), "compile": Measurement({"step": [3.0, 3.0]})}
    found = scaling.row(4, 6, ours, theirs)
    assert (found["threads"], found["mode"], found["ratio"]["median"]) == (4, "eager", 2)
    assert [found[key] for key in scaling.SPEEDS] == [6, 3]
    theirs["eager"].missing = "none"
    assert scaling.row(4, 6, ours, theirs)["mode"] == "compile"
    ours.missing = "none"
    assert scaling.row(4, 6, ours, theirs).keys() == {"threads", "mode", "pytorch_images_per_second"}


def test_growth_measures_the_common_middle_once(monkeypatch):
    seen = []

    def fake(contenders, rounds, title, turn_seconds):
        seen.extend(c.name for c in contenders)
        return {c.name: Measurement({kind: [float(k)] for kind in growth.KINDS}) for k, c in enumerate(contenders)}

    monkeypatch.setattr(growth, "take_turns", fake)
    axes = growth.run(Options())
    assert len(seen) == len(set(seen)) == sum(len(values) for values in growth.AXES.values()) - 2
    middles = [row["training"] for a in axes for row in a["rows"] if row["value"] == a["middle"][a["axis"]]]
    assert len(middles) == 3
    assert len(set(middles)) == 1


def test_how_a_process_ended():
    assert harness.how_it_ended(3) == "the process ended with status 3"
    assert harness.how_it_ended(-11) == "the process was ended by SIGSEGV"
    assert harness.how_it_ended(-99) == "the process was ended by signal 99"


def test_thread_counts():
    assert [scaling.thread_counts(n) for n in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]


def test_the_machine_is_described_without_its_name(monkeypatch):
    peak = harness.Measurement(
        {"fma": [2.0, 1.0], "copy": [1.0, 4.0]}, output={"simd": "avx2", "flops": 3e9, "bytes": 5e9}
    )
    monkeypatch.setattr(machine, "take_turns", lambda *args: {"peak": peak})
    described = machine.describe(Options(threads=3))
    assert (described["gflops"], described["copy_gbs"], described["threads"]) == (3, 5, 3), "the fastest turn counts"
    peak.seconds["fma"], peak.seconds["copy"] = [0.5], [2.0]
    later = machine.with_later_peaks(described, Options(threads=3))
    assert (later["gflops"], later["copy_gbs"]) == (6, 5), "and the better of before and after"
    assert described["processor"]
    text = json.dumps(described)
    assert platform.node() not in text
    assert "/" not in text


def test_inference_is_compared_with_the_numpy_backend(monkeypatch):
    """`run` hands `take_turns` a check that a contender with other logits does not pass."""
    expected = inference.QUICK[0].trained_model("numpy").forward(inference.QUICK[0].images())
    checked = []

    def fake(contenders, rounds, title, check):
        if not checked:
            check({"right": expected.tolist()})
            with pytest.raises(BenchmarkError, match="wrong"):
                check({"wrong": (1.01 * expected).tolist()})
        checked.append(title)
        return {c.name: harness.Measurement({"step": [0.1]}) for c in contenders}

    monkeypatch.setattr(inference, "take_turns", fake)
    results = inference.run(Options(rounds=1, quick=True))
    assert len(checked) == len(results) == len(inference.QUICK)
