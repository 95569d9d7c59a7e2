"""The lessons' tests themselves, run by a pytest of their own on a learner's file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tinymnv1.gradcheck.spec import LESSONS, SPECS

ROOT = Path(__file__).parents[2]

GOOD = """
import numpy as np
def relu_forward(x):
    return np.maximum(x, 0), x > 0
def relu_backward(dy, cache):
    return np.where(cache, dy, 0).astype(dy.dtype)
def relu6_forward(x):
    return np.clip(x, 0, 6), (x > 0) & (x < 6)
relu6_backward = relu_backward
"""


def run_pytest(*arguments, **environment):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    env = os.environ | environment
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=env)


def test_a_right_file_passes_its_lesson_and_a_broken_one_fails_it(tmp_path):
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text(GOOD, encoding="utf-8")
    bad.write_text(GOOD.replace("(x > 0) & (x < 6)", "x > 0"), encoding="utf-8")
    (tmp_path / "torch.py").write_text("raise ImportError('a learner need not have it')", encoding="utf-8")
    without_torch = {"PYTHONPATH": str(tmp_path)}
    passed = run_pytest(f"--ops={good}", "-m", "relu6", **without_torch)  # the plain form: over the whole of tests/
    assert passed.returncode == 0, passed.stdout
    assert "4 passed" in passed.stdout
    failed = run_pytest(f"--ops={bad}", "-m", "relu6", "tests/gradcheck/test_lessons.py")
    assert failed.returncode == 1
    assert "hint: mask open at 6" in failed.stdout
    assert "1 failed, 3 passed" in failed.stdout


def test_without_a_lesson_the_missing_functions_are_skipped(tmp_path):
    good = tmp_path / "good.py"
    good.write_text(GOOD, encoding="utf-8")
    result = run_pytest(f"--ops={good}", "tests/gradcheck/test_lessons.py")
    assert result.returncode == 0, result.stdout
    assert "4 passed" in result.stdout
    assert "skipped" in result.stdout


def test_half_an_op_is_not_skipped(tmp_path):
    half = tmp_path / "half.py"
    half.write_text(
        "import numpy as np\n\n\ndef relu_forward(x):\n    return np.maximum(x, 0), x > 0\n", encoding="utf-8"
    )
    result = run_pytest(f"--ops={half}", "tests/gradcheck/test_lessons.py")
    assert result.returncode == 1, result.stdout
    assert "relu_backward" in result.stdout


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("absent.py", None, "there is no such file"),
        ("broken.py", "def relu6_forward(x\n", "SyntaxError"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_usage_error(name, content, told, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_text(content, encoding="utf-8")
    result = run_pytest(f"--ops={path}", "-m", "relu6", "tests/gradcheck/test_lessons.py")
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert told in result.stdout + result.stderr


def test_the_option_is_known_in_its_plain_form():
    """`--ops FILE` with a space: pytest meets FILE before it has read any conftest.py. This file has no op in it."""
    result = run_pytest("--ops", "tests/gradcheck/implementations.py", "-m", "relu6")
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "it defines none of the functions" in result.stdout + result.stderr


def test_every_op_has_a_lesson_and_markers_are_registered():
    assert {spec.lesson for spec in SPECS} == set(LESSONS)
    markers = run_pytest("--markers").stdout
    for lesson in LESSONS:
        assert f"@pytest.mark.{lesson}:" in markers
