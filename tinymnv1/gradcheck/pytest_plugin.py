"""`pytest --ops my_ops.py -m depthwise`: the grader's checks of a learner's file as tests, one marker a lesson.

A plugin, named in pyproject.toml, and not a conftest.py: pytest takes the `my_ops.py` of an option that it does not
know yet for a test file, and would look for the conftest beside that. (It also looks there for its configuration, so a
file outside of this project needs `--ops=FILE`, with the sign.)
"""

from pathlib import Path

import pytest

from tinymnv1.gradcheck.spec import LESSONS


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --ops."""
    parser.addoption("--ops", metavar="FILE", help="check the ops of this file instead of tinymnv1's own")


def pytest_configure(config: pytest.Config) -> None:
    """Register the lessons' markers. Raises UsageError if the file of --ops is not there."""
    for lesson in LESSONS:
        config.addinivalue_line("markers", f"{lesson}: the checks of the lesson on {lesson}")
    ops = config.getoption("--ops")
    if ops is not None and not Path(ops).is_file():
        raise pytest.UsageError(f"--ops {ops}: there is no such file")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --ops nothing but the lessons' file is imported: others need PyTorch, which a learner need not have."""
    if config.getoption("--ops") is not None and collection_path.suffix == ".py":
        return collection_path.name != "test_lessons.py"
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --ops only the lessons' tests make sense: the others test the project."""
    if config.getoption("--ops") is not None:
        chosen = [item for item in items if any(item.get_closest_marker(lesson) for lesson in LESSONS)]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen
