"""The committed notebooks: executed, clean, small, and complete. (`pytest --nbmake notebooks` runs them.)"""

import re

import pytest
from course import COURSE, FOLDER, SOLUTIONS, read

ALL = COURSE + SOLUTIONS
IDS = [str(path.relative_to(FOLDER).with_suffix("")) for path in ALL]
MACHINE_PATH = re.compile(r"(?:/home/|/Users/|/root/|/tmp/|/work/|/var/folders/|[A-Z]:\\\\?Users)")
each = pytest.mark.parametrize("path", ALL, ids=IDS)


def outputs(path):
    """(cell number, output) of all outputs."""
    return [(k, output) for k, cell in enumerate(read(path)) for output in cell.get("outputs", ())]


def text_of(output):
    """An output's text, whatever its kind."""
    return output.get("text", "") + "".join(v for k, v in output.get("data", {}).items() if k.startswith("text/"))


def test_the_course_is_complete():
    assert [path.stem[:2] for path in COURSE] == [f"{k:02d}" for k in range(12)]
    assert [path.name for path in SOLUTIONS] == [path.name for path in COURSE]


@each
def test_every_cell_was_run_once_and_in_order(path):
    counts = [cell.execution_count for cell in read(path) if cell.cell_type == "code" and cell.source.strip()]
    assert counts == list(range(1, len(counts) + 1))


@each
def test_outputs_hold_no_errors_warnings_or_machine_paths(path):
    for number, output in outputs(path):
        where = f"{path.name}, cell {number}"
        assert output.output_type != "error", where
        assert output.get("name") != "stderr", f"{where}: {output.text[:200]}"
        found = MACHINE_PATH.search(text_of(output))
        assert not found, f"{where}: {text_of(output)[max(found.start() - 50, 0) :][:150]}"
        assert "Warning" not in text_of(output), where


@each
def test_a_notebook_is_under_two_megabytes(path):
    assert path.stat().st_size < 2e6


@pytest.mark.parametrize("path", COURSE, ids=[path.stem for path in COURSE])
def test_a_lesson_has_a_picture_goals_and_a_summary(path):
    assert any("image/png" in output.get("data", {}) for _, output in outputs(path))
    prose = "\n".join(cell.source for cell in read(path) if cell.cell_type == "markdown").lower()
    for part in ("what you will learn", "before you run", "summary"):
        assert part in prose, f"{path.name} has no {part!r}"


@pytest.mark.parametrize("path", SOLUTIONS, ids=[path.stem for path in SOLUTIONS])
def test_every_check_of_the_solutions_is_green(path):
    told = "".join(text_of(output) for _, output in outputs(path))
    assert ": passed" in told
    assert "not right yet" not in told
    assert "not attempted yet" not in told
