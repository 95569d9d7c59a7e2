"""The mutation lab: the learner writes the checks, and sees which of our broken ops they let live.

A check is a function `check_<op or lesson>(ops)` that raises AssertionError, or returns False, where an op is wrong;
`ops` is used like the module `tinymnv1.ops`. First every check must be silent on the right ops: one that objects to
everything catches every mutant and knows nothing.
"""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinymnv1.errors import ConfigError
from tinymnv1.gradcheck.isolation import run_isolated
from tinymnv1.gradcheck.mutants import MUTANTS, Mutant
from tinymnv1.gradcheck.spec import SPECS, OpSpec

SECONDS = 30.0
"""The time limit of all of a file's checks on one mutant."""

TRIES = 3
"""How often each check sees the right ops, since its inputs may be random."""

CAUGHT, SURVIVES, NO_CHECK = "caught", "SURVIVES", "no check"


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant. how: the words of the check that caught it, or why none could."""

    mutant: Mutant
    status: str
    how: str = ""


@dataclass(frozen=True)
class LabResult:
    """false_alarms: check name -> what it said of the right ops.  verdicts: one a mutant."""

    false_alarms: dict[str, str]
    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        """Whether there was a mutant to try, no check raised a false alarm, and no mutant with a check survived."""
        statuses = {verdict.status for verdict in self.verdicts}
        return not self.false_alarms and CAUGHT in statuses and SURVIVES not in statuses


def _concerns(check: str, spec: OpSpec) -> bool:
    """Whether a check is for an op: it is called after the op, or after its lesson, or after neither of any."""
    subject = check.removeprefix("check_")
    if any(subject == row.name for row in SPECS):  # relu6 is an op and a lesson: the op counts
        return subject == spec.name
    return subject == spec.lesson or all(subject != row.lesson for row in SPECS)


def _run(path: Path, mutant: Mutant | None, checks: Sequence[str] | None, seconds: float) -> tuple[dict[str, Any], str]:
    """The outcomes of the checks on a mutant (None: on the right ops), and what went wrong if there are none."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        request = {
            "file": str(path),
            "mutant": mutant and mutant.name,
            "checks": checks,
            "times": 1 if mutant else TRIES,
            "seconds": seconds,
        }
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        ended = run_isolated(["-m", f"{__package__}.lab_worker", str(folder)], seconds, folder)
        if (folder / "import.json").exists():
            told = json.loads((folder / "import.json").read_text(encoding="utf-8"))
            line = f", line {told['line']}" if told["line"] else ""
            raise ConfigError(f"{path}{line}: cannot be imported: {told['problem']}")
        if (folder / "outcomes.json").exists():
            outcomes: dict[str, Any] = json.loads((folder / "outcomes.json").read_text(encoding="utf-8"))
            return outcomes, ""
        return {}, f"not finished after {seconds:g} s" if ended.timed_out else f"ended the process {ended.how}"


def run_lab(
    path: Path,
    specs: Sequence[OpSpec] = SPECS,
    seconds: float = SECONDS,
    done: Callable[[Mutant], Any] = lambda mutant: None,
) -> LabResult:
    """Try a learner's checks on the mutants of `specs`, each in a process of its own.

    path: the file with the checks.  seconds: time limit for one mutant.  done: called when a mutant is through.
    Raises ConfigError if the file is missing, cannot be imported, holds no check, or does not end on the right ops.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file")
    path = path.resolve()
    outcomes, problem = _run(path, None, None, seconds)
    if problem:
        raise ConfigError(f"{path}: on the right ops, its checks {problem}")
    if not outcomes:
        raise ConfigError(f"{path}: it defines no check; write functions such as check_depthwise(ops)")
    false_alarms = {
        name: next(_words(try_) for try_ in tries if try_["objects"])
        for name, tries in outcomes.items()
        if any(try_["objects"] for try_ in tries)
    }
    sound = [name for name in outcomes if name not in false_alarms]

    def judge(mutant: Mutant) -> Verdict:
        checks = [name for name in sound if _concerns(name, mutant.spec)]
        verdict = _judge(path, mutant, checks, seconds) if checks else Verdict(mutant, NO_CHECK)
        done(mutant)
        return verdict

    chosen = [mutant for mutant in MUTANTS if mutant.spec in specs]
    with ThreadPoolExecutor(max_workers=max(1, min(4, os.cpu_count() or 1))) as pool:
        return LabResult(false_alarms, tuple(pool.map(judge, chosen)))


def _judge(path: Path, mutant: Mutant, checks: Sequence[str], seconds: float) -> Verdict:
    outcomes, problem = _run(path, mutant, checks, seconds)
    for name, (try_,) in outcomes.items():
        if try_["objects"]:
            return Verdict(mutant, CAUGHT, f"{name}, {_words(try_)}")
    return Verdict(mutant, SURVIVES, problem)


def _words(try_: dict[str, Any]) -> str:
    line = f"line {try_['line']}: " if try_["line"] else ""
    return (line + try_["message"])[:100]


def text(result: LabResult) -> str:
    """The report: false alarms, then survivors with their mistake, then a count."""
    lines = [f"FALSE ALARM  {name} objects to the right ops ({words}); what it catches does not count"
             for name, words in result.false_alarms.items()]  # fmt: skip
    for verdict in result.verdicts:
        if verdict.status == CAUGHT:
            lines.append(f"caught       {verdict.mutant.name:<32} by {verdict.how}")
    for verdict in result.verdicts:
        if verdict.status == SURVIVES:
            lines.append(f"SURVIVES     {verdict.mutant.name:<32} {verdict.how or verdict.mutant.mistake}")
    unchecked = [verdict.mutant for verdict in result.verdicts if verdict.status == NO_CHECK]
    by_op = {op: sum(m.op == op for m in unchecked) for op in dict.fromkeys(m.op for m in unchecked)}
    if by_op:
        lines.append("no check yet for " + ", ".join(f"{op} ({count})" for op, count in by_op.items()))
    tried = [verdict for verdict in result.verdicts if verdict.status != NO_CHECK]
    caught = sum(verdict.status == CAUGHT for verdict in tried)
    lines += ["", f"{caught} of {len(tried)} mutants caught, {len(tried) - caught} survive"]
    return "\n".join(lines)
