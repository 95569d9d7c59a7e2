"""Every exercise's check: silent on the stub, red on plausible mistakes, green on the solution."""

import importlib.util
from pathlib import Path

import pytest
from course import COURSE, FOLDER, tagged

from tinymnv1.gradcheck.exercise import Verdict, recording
from tinymnv1.gradcheck.findings import FAILED, NOT_ATTEMPTED, PASSED

EXERCISES = [(path, name) for path in COURSE for name in tagged(path, "exercise")]
IDS = [f"{path.stem}-{name}" for path, name in EXERCISES]


def judge(answer: str, check: str) -> list[Verdict]:
    """The verdicts of a check cell on an answer cell, both in an empty namespace."""
    namespace = {"__name__": "__main__"}
    exec(compile(answer, "answer", "exec"), namespace)
    with recording() as verdicts:
        exec(compile(check, "check", "exec"), namespace)
    assert verdicts, "the check cell checks nothing"
    return verdicts


def wrong_answers(path: Path) -> dict[str, list[str]]:
    """What tests/notebooks/wrong holds for a notebook."""
    file = Path(__file__).parent / "wrong" / f"{path.stem}.py"
    spec = importlib.util.spec_from_file_location(f"wrong_{path.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.WRONG


@pytest.mark.parametrize(("path", "name"), EXERCISES, ids=IDS)
def test_the_stub_is_not_attempted_yet_and_no_error(path, name):
    verdicts = judge(tagged(path, "exercise")[name], tagged(path, "check")[name])
    assert any(v.status == NOT_ATTEMPTED for v in verdicts), verdicts
    assert all(v.status != FAILED for v in verdicts), verdicts  # what the stub gives may well pass


@pytest.mark.parametrize(("path", "name"), EXERCISES, ids=IDS)
def test_every_plausible_mistake_is_seen(path, name):
    answers = wrong_answers(path)[name]
    assert answers
    for answer in answers:
        verdicts = judge(answer, tagged(path, "check")[name])
        assert any(v.status == FAILED for v in verdicts), f"{answer}\npasses: {verdicts}"


@pytest.mark.parametrize(("path", "name"), EXERCISES, ids=IDS)
def test_the_solution_passes_the_same_check(path, name):
    solved = FOLDER / "solutions" / path.name
    assert tagged(solved, "check")[name] == tagged(path, "check")[name], "the solution's check is another one"
    verdicts = judge(tagged(solved, "exercise")[name], tagged(path, "check")[name])
    assert all(v.status == PASSED for v in verdicts), verdicts


@pytest.mark.parametrize("path", COURSE, ids=[path.stem for path in COURSE])
def test_exercises_checks_solutions_and_mistakes_belong_together(path):
    names = list(tagged(path, "exercise"))
    assert 2 <= len(names) <= 5
    assert list(tagged(path, "check")) == names
    solved = FOLDER / "solutions" / path.name
    assert list(tagged(solved, "exercise")) == list(tagged(solved, "check")) == names
    assert sorted(wrong_answers(path)) == sorted(names)
