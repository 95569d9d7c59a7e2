"""The page for teachers: what its commands print is what it shows, and its code runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from gradcheck.test_mutants import SEEDS

import tinymnv1.gradcheck
from tinymnv1.gradcheck.mutants import MUTANTS
from tinymnv1.gradcheck.spec import LESSONS

PAGE = (Path(tinymnv1.gradcheck.__file__).parent / "README.md").read_text(encoding="utf-8")
CONSOLE = re.findall(r"```console\n\$ python (.*?)\n(.*?)```", PAGE, re.DOTALL)
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def comparable(text):
    """Without what differs from machine to machine: rounding errors, and where the largest of them lies."""
    text = re.sub(r"\d\.\de-\d\d at \[[\d, ]*\]  ok", "tiny  ok", text)
    return re.sub(r"\d\.\de-(0[5-9]|1\d)", "tiny", text).strip()


def test_the_numbers_in_the_text():
    assert f"On the {len(MUTANTS)} mutants here all do" in PAGE
    assert f"the {SEEDS} seeds" in PAGE
    for lesson in LESSONS:
        assert f"| `{lesson}` |" in PAGE


@pytest.fixture
def folder(tmp_path):
    for block in CODE:
        if block.startswith("# "):
            (tmp_path / block.split()[1]).write_text(block, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(("command", "shown"), CONSOLE, ids=[command for command, _ in CONSOLE])
def test_a_command_prints_what_the_page_shows(command, shown, folder):
    result = subprocess.run([sys.executable, *command.split()], cwd=folder, capture_output=True, text=True, check=False)
    assert comparable(result.stdout) == comparable(shown), result.stdout + result.stderr


def test_the_code_for_the_library_runs(folder):
    (block,) = (block for block in CODE if not block.startswith("# "))
    result = subprocess.run([sys.executable, "-c", block], cwd=folder, capture_output=True, text=True, check=True)
    assert re.search(r"^x +largest relative error .* ok$", result.stdout)
