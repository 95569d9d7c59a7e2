"""A learner's file may do anything: each kind of trouble gets its line, the other functions go on, nothing is left."""

import os
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tinymnv1.errors import ConfigError
from tinymnv1.gradcheck.findings import FAILED, NOT_ATTEMPTED, PASSED
from tinymnv1.gradcheck.grade import grade_file
from tinymnv1.gradcheck.report import details, text
from tinymnv1.gradcheck.spec import select

RELU = """
import numpy as np
STATE = {}
def relu_forward(x):
    return np.maximum(x, 0), x > 0
def relu_backward(dy, cache):
    return dy * cache
"""

HEAD = """
import ctypes, os, subprocess, sys, threading, time
import numpy as np
def right(x):
    return np.clip(x, 0, 6)
def relu6_backward(dy, cache):
    return dy * cache
"""


def grade(folder, body, only="relu6", seconds=10.0):
    """Grade HEAD + body. Returns function -> result."""
    path = folder / "my_ops.py"
    path.write_text(textwrap.dedent(RELU) + textwrap.dedent(HEAD) + textwrap.dedent(body), encoding="utf-8")
    results = grade_file(path, select(only), seconds=seconds)
    return {result.function: result for result in results}


TROUBLE = {
    "endless loop": ("while True: pass", "still running after 3 s"),
    "sleep": ("time.sleep(1000)", "still running after 3 s"),
    "exit": ("os._exit(3)", "with exit status 3"),
    "sys.exit": ("sys.exit(0)", "raised SystemExit: 0"),
    "segmentation fault": ("ctypes.string_at(0)", "SIGSEGV" if os.name == "posix" else "exit status"),
    "exception": ("return x[10**6], None", "raised IndexError"),
    "recursion": ("return relu6_forward(x)", "raised RecursionError"),
    "memory": ("return np.zeros(10**9), None", "MemoryError" if sys.platform == "linux" else "y is"),  # 8 GB
    "None": ("return None", "returned None where y, cache are expected"),
    "None as y": ("return None, 1", "y is None, not an array"),
    "one thing": ("return right(x)", "one array where y, cache are expected"),
    "list": ("return right(x).tolist(), 1", "y is a list, not an array"),
    "wrong shape": ("return right(x).T, (x > 0) & (x < 6)", "y has shape (2, 4, 3, 2), it should be (2, 3, 4, 2)"),
    "wrong dtype": ("return right(x).astype(np.float64), (x > 0) & (x < 6)", "y is float64, it should be float32"),
    "objects": ("return right(x).astype(object), 1", "an array of object"),
    "the mask as y": ("return (x > 0) & (x < 6), x", "y is bool, it should be"),
    "a word first, then an array": (
        "x0, STATE['x'] = STATE.get('x'), right(x); return x0, (x > 0) & (x < 6)", "y is None, not an array"),
    "NaN": ("return right(x) * np.nan, (x > 0) & (x < 6)", "largest relative error inf"),
    "mutation": ("np.clip(x, 0, 6, out=x); return x.copy(), (x > 0) & (x < 6)", "writes to its input x"),
    "alias": ("y = np.clip(x, 0, 6); x[...] = y; return x, x > 0", "y shares memory with the input x"),
    "reference": ("from tinymnv1.ops import relu6_forward as f; return f(x)", "uses the reference"),
    "reference by name": ("import importlib; return importlib.import_module('tinymnv1.ops').relu6_forward(x)",
                          "uses the reference"),
    "reference by path": ("import pathlib; exec(pathlib.Path(REFERENCE).read_text())", "uses the reference"),
    "reference, error swallowed": ("""
    try:
        import tinymnv1.kernels as k
        return k.relu6_forward(x)
    except Exception:
        return right(x), (x > 0) & (x < 6)
    """, "uses the reference"),
}  # fmt: skip
if sys.platform == "linux":
    TROUBLE["a large file"] = ("open('big', 'wb').write(bytes(65 << 20)); return right(x), x > 0", "File too large")


@pytest.mark.parametrize("name", TROUBLE)
def test_each_trouble_gets_its_line_and_the_others_go_on(name, tmp_path):
    body, told = TROUBLE[name]
    reference = str(Path(sys.modules["tinymnv1"].__file__).parent / "ops" / "activation.py")
    started = time.monotonic()
    body = f"REFERENCE = {reference!r}\ndef relu6_forward(x):\n    {body.strip()}\n"
    results = grade(tmp_path, body, seconds=3.0 if "3 s" in told else 30.0)
    assert time.monotonic() - started < 60
    assert results["relu6_forward"].status == FAILED
    report = text(list(results.values()))
    assert told in report, report
    assert results["relu_forward"].status == results["relu_backward"].status == PASSED, report


def test_the_line_of_an_exception_is_the_learners(tmp_path):
    results = grade(tmp_path, "def relu6_forward(x):\n    z = 1\n    return x / None\n")
    line = (tmp_path / "my_ops.py").read_text().splitlines().index("    return x / None") + 1
    assert f"line {line}: raised TypeError" in details(results["relu6_forward"])
    assert "could not be called, because relu6_forward did not return" in details(results["relu6_backward"])


def test_a_backward_that_hangs_is_blamed_and_its_forward_is_not(tmp_path):
    body = """
    def relu6_forward(x):
        return right(x), (x > 0) & (x < 6)
    def relu6_backward(dy, cache):
        while True: pass
    """
    results = grade(tmp_path, body, seconds=3)
    assert "still running after 3 s" in details(results["relu6_backward"])
    assert "relu6_backward still running" in details(results["relu6_forward"])  # not checked to the end


def test_printing_is_a_note_and_costs_nothing(tmp_path):
    results = grade(
        tmp_path, "def relu6_forward(x):\n    print('passed 100 %')\n    return right(x), (x > 0) & (x < 6)\n"
    )
    assert results["relu6_forward"].status == PASSED
    assert "prints; the first line: passed 100 %" in details(results["relu6_forward"])


def test_a_backward_is_not_right_in_cases_that_its_forward_refuses(tmp_path):
    """Else one that knows only the easy cases would get all points, beside a forward that raises in the others."""
    body = """
    def relu6_forward(x):
        if x.dtype != np.float64:
            raise ValueError("float64 only")
        return right(x), (x > 0) & (x < 6)
    """
    results = grade(tmp_path, body)
    assert results["relu6_forward"].status == results["relu6_backward"].status == FAILED
    assert ": relu6_forward did not return" in details(results["relu6_backward"])


def test_a_backward_that_cannot_be_judged_yet_is_told_why(tmp_path):
    """What is right for dropout's backward depends on the learner's mask, which a y of another dtype does not have."""
    body = """
    def dropout_forward(x, p, rng):
        return x > 0, x > 0
    def dropout_backward(dy, cache):
        return dy * cache
    """
    result = grade(tmp_path, body, only="dropout")["dropout_backward"]
    assert result.status == FAILED
    assert ": dropout_forward's y is not of x's shape and dtype" in details(result)


def test_a_backward_is_not_right_in_cases_that_its_forward_spoils(tmp_path):
    """Dropout's again: here forward and backward are wrong for float32 alone."""
    body = """
    def dropout_forward(x, p, rng):
        mask = (rng.random(x.shape) >= p) / (1 - p)
        y = (x * mask).astype(x.dtype)
        return (y.T if x.dtype == np.float32 else y), mask.astype(x.dtype)
    def dropout_backward(dy, cache):
        return dy * 0 if dy.dtype == np.float32 else dy * cache
    """
    results = grade(tmp_path, body, only="dropout")
    assert results["dropout_backward"].status == FAILED, details(results["dropout_backward"])


def test_accumulation_is_found(tmp_path):
    body = """
    total = {}
    def relu6_forward(x):
        return right(x), (x > 0) & (x < 6)
    def relu6_backward(dy, cache):
        total[dy.shape] = total.get(dy.shape, 0) + dy * cache
        return total[dy.shape].astype(dy.dtype)
    """
    result = grade(tmp_path, body)["relu6_backward"]
    assert result.status == FAILED
    assert result.hint.cause == "accumulated instead of set"


def test_results_cannot_be_forged_by_writing_files(tmp_path):
    """A file that fills its working folder with what the worker would write is graded by its values all the same."""
    body = """
    import json
    def relu6_forward(x):
        for k in range(9):
            open(f"{k}.npz", "wb").write(b"nonsense")
        open("stage", "w").write("done")
        os._exit(0)
    """
    results = grade(tmp_path, body)
    assert results["relu6_forward"].status == FAILED
    assert "could not be read" in details(results["relu6_forward"])


@pytest.mark.skipif(os.name != "posix", reason="looks for processes as POSIX lists them")
def test_nothing_is_left_running(tmp_path):
    """Children, threads and even a daemon in a session of its own end with their check."""
    body = """
    def relu6_forward(x):
        mark = sys.argv[1]
        code = "import time; time.sleep(300)"
        for options in ({}, {"start_new_session": True}):
            child = subprocess.Popen([sys.executable, "-c", code], **options)
            open(FOLDER + f"/{child.pid}.pid", "w").close()
        threading.Thread(target=time.sleep, args=(300,)).start()
        return right(x), (x > 0) & (x < 6)
    """
    started = time.monotonic()
    results = grade(tmp_path, f"FOLDER = {str(tmp_path)!r}\n" + textwrap.dedent(body))
    assert time.monotonic() - started < 10
    assert results["relu6_forward"].status == PASSED
    pids = [int(p.stem) for p in tmp_path.glob("*.pid")]
    assert len(pids) >= 2
    time.sleep(0.2)
    for pid in pids:
        assert not _runs(pid), f"{pid} is still running"


def _runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")  # a zombie that nobody has reaped yet has ended, too
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_stub_is_not_attempted_and_not_wrong(tmp_path):
    body = """
    def relu6_forward(x):
        raise NotImplementedError
    def relu6_backward(dy, cache):
        raise NotImplementedError
    """
    results = grade(tmp_path, body)
    assert results["relu6_forward"].status == results["relu6_backward"].status == NOT_ATTEMPTED


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("def relu6_forward(x:\n", "line 1: cannot be imported: SyntaxError"),
        ("\nimport nonexistent_module\n", "line 2: cannot be imported: ModuleNotFoundError"),
        ("while True: pass\n", "still being imported after 1 s"),
        ("import os; os._exit(5)\n", "its import ended the process with exit status 5"),
        ("x = 1\n", "it defines none of the functions"),
    ],
)
def test_a_file_that_cannot_be_imported_is_one_error(content, told, tmp_path):
    path = tmp_path / "my_ops.py"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=told):
        grade_file(path, select("relu6"), seconds=1.0 if "1 s" in told else 30.0)


def test_an_import_of_the_reference_costs_only_who_uses_it(tmp_path):
    body = """
    from tinymnv1.ops import relu6_forward
    """
    results = grade(tmp_path, body)
    assert "uses the reference" in details(results["relu6_forward"])
    assert results["relu_forward"].status == PASSED


def test_missing_halves(tmp_path):
    path = tmp_path / "my_ops.py"
    path.write_text("def relu6_backward(dy, cache):\n    return dy * cache\n" + RELU.split("def relu_backward")[0])
    results = {r.function: r for r in grade_file(path, select("relu6"))}
    assert "needs relu6_forward, which is missing" in details(results["relu6_backward"])
    assert results["relu6_forward"].status == results["relu_backward"].status == "missing"
    assert results["relu_forward"].status == PASSED
