"""The house keeps its floors: a file imports only from below, and only `kernels` knows Numba."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tinymnv1

ROOT = Path(tinymnv1.__file__).parent
FLOORS = [
    {"errors"},
    {"files", "ops"},
    {"kernels", "cli", "parameters"},
    {"layers"},
    {"model"},
    {"engine", "optim", "averaging", "schedules", "data", "checkpoint", "summary", "plots"},
    {"recipes", "microscope"},
    {"runs"},
    {"trainer"},
    {"lr_finder"},
    {"train", "evaluate", "compare", "predict", "gradcheck"},
]
FLOOR = {name: level for level, names in enumerate(FLOORS) for name in names}
FILES = sorted(ROOT.rglob("*.py"))


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "tinymnv1":
                yield from (f"tinymnv1.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_from_below(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts == ("__init__",):
        return
    own = parts[0]
    for name in imports_of(path):
        assert name.split(".")[0] not in ("torch", "onnxruntime", "tensorflow", "jax"), f"{path} imports {name}"
        if name.split(".")[0] == "numba":
            assert own == "kernels" or parts == ("train",), f"{path} imports numba"  # train: sets the thread count
        if name.startswith("tinymnv1."):
            other = name.split(".")[1]
            assert other == own or FLOOR[other] < FLOOR[own], f"{path} ({own}) imports {name} from its floor or above"


def test_import_is_light():
    """`import tinymnv1` alone loads neither Numba nor matplotlib: both take a noticeable part of a second."""
    code = "import sys, tinymnv1; print([m for m in ('numba', 'matplotlib', 'pooch', 'PIL') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_training_begins_without_numba_and_matplotlib():
    """`python -m tinymnv1.train` lets other processes compile as soon as it knows what: its own loading comes first."""
    code = "import sys, tinymnv1.train; print([m for m in ('numba', 'matplotlib') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_optimizers_and_data_work_without_numba():
    """It takes a second to load, and the NumPy backend has no use for it."""
    code = "import sys, tinymnv1.optim, tinymnv1.data; print('numba' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
