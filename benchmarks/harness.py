"""Contenders in turn, A B C A B C ..., each a process of its own; and the statistics of what they took.

Why so: two libraries in one process share allocator, caches and thread pools, and one that leaves its threads spinning
slows the other. Why in turn: a machine's speed drifts, with its temperature and its neighbours. Contenders that are
measured within the same seconds are compared by the ratio of those two times, and the median is taken of the ratios.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from tqdm import tqdm

from tinymnv1.errors import TinyMNError

ROOT = Path(__file__).parents[1]

PAUSE = 0.3
"""Seconds between two turns. When a parallel loop ends, its threads do not sleep at once but spin for a while, in case
another one follows: up to 0.2 s in some OpenMP and TBB runtimes. The next contender must not pay for that. (Forbidding
it with OMP_WAIT_POLICY=PASSIVE would slow the contender that is running.)"""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


class BenchmarkError(TinyMNError):
    """A result that must not be reported: a contender that computes something else."""


@dataclass(frozen=True)
class Options:
    """What the command line says: rounds, threads of each contender, and whether to measure a few small cases only."""

    rounds: int = 9
    threads: int = 1
    quick: bool = False


@dataclass(frozen=True)
class Contender:
    """setup: a function at the top of a module, called in the process as setup(threads=..., **settings); gives a Job.

    settings: plain values, since they travel as JSON.
    """

    name: str
    setup: Callable[..., Any]
    threads: int
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class Measurement:
    """seconds: of each task, one number a round.  missing: why there are none."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    peak_bytes: int | None = None
    output: Any = None
    missing: str | None = None


class Worker:
    """A contender's process, seen from outside. Leaving the `with` block ends it."""

    def __init__(self, contender: Contender, turn_seconds: float) -> None:
        self.contender, self.measured = contender, Measurement()
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(contender.threads))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            encoding="utf-8",
        )
        request = {
            "setup": f"{contender.setup.__module__}:{contender.setup.__qualname__}",
            "settings": contender.settings | {"threads": contender.threads},
            "turn_seconds": turn_seconds,
        }
        self._ask(request)

    def take_turn(self) -> None:
        """Measure every task once, unless the contender is missing."""
        if self.measured.missing is None:
            self._ask({})

    def _ask(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        line = ""
        try:
            print(json.dumps(message), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            pass
        answer = json.loads(line) if line else {"missing": how_it_ended(self.process.wait())}
        measured = self.measured
        measured.missing = answer.get("missing")
        measured.output = answer.get("output", measured.output)
        measured.peak_bytes = answer.get("peak_bytes", measured.peak_bytes)
        for task, seconds in answer.get("seconds", {}).items():
            measured.seconds.setdefault(task, []).append(seconds)
        if measured.missing is not None:
            self.log.seek(0)
            tqdm.write(f"{self.contender.name}: {measured.missing}\n{self.log.read()[-2000:]}", file=sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.process.communicate()
        self.log.close()


def how_it_ended(status: int) -> str:
    """A process's exit status in words; below 0 it is the signal that ended it."""
    if status >= 0:
        return f"the process ended with status {status}"
    try:
        return f"the process was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"the process was ended by signal {-status}"


def take_turns(
    contenders: Sequence[Contender],
    rounds: int,
    title: str,
    turn_seconds: float = 0.5,
    pause: float = PAUSE,
    check: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Measurement]:
    """Measure contenders `rounds` times in turn; all of their processes live at once, one runs at a time.

    title: of the progress bar.  turn_seconds: roughly how long each task is measured in a turn.
    check: gets the outputs by the contenders' names before anything is timed, and raises BenchmarkError if one is
    wrong. A contender that cannot be set up, or that breaks later, is left out and says why.
    """
    with ExitStack() as stack:
        total = len(contenders) * (rounds + 1)
        bar = stack.enter_context(tqdm(total=total, desc=title, leave=False, file=sys.stderr, disable=None))
        workers = []
        for contender in contenders:
            bar.set_postfix_str(f"set up {contender.name}")
            workers.append(stack.enter_context(Worker(contender, turn_seconds)))
            bar.update()
        if check is not None:
            check({w.contender.name: w.measured.output for w in workers if w.measured.missing is None})
        for _ in range(rounds):
            for worker in workers:
                bar.set_postfix_str(worker.contender.name)
                time.sleep(pause)
                worker.take_turn()
                bar.update()
    return {worker.contender.name: worker.measured for worker in workers}


def require_agreement(outputs: dict[str, Any], expected: Any, tolerance: float) -> None:
    """Raise BenchmarkError unless every output is `expected` within tolerance * its largest number."""
    expected = np.asarray(expected, np.float64)
    for name, output in outputs.items():
        got = np.asarray(output, np.float64)
        if got.shape != expected.shape:
            raise BenchmarkError(f"{name} gives numbers of shape {got.shape}, expected {expected.shape}")
        difference = float(np.abs(got - expected).max() / np.abs(expected).max())
        if not difference <= tolerance:
            raise BenchmarkError(f"{name} computes something else: relative difference {difference:.1e}")


def paired_ratio(ours: Sequence[float], peer: Sequence[float]) -> dict[str, float]:
    """How many times longer the peer took: median, min and max over the rounds of the two times in the same round."""
    ratios = [b / a for a, b in zip(ours, peer, strict=True)]
    return {
        "median": significant(statistics.median(ratios)),
        "min": significant(min(ratios)),
        "max": significant(max(ratios)),
    }


def best(times: dict[str, list[float]]) -> str:
    """The name of the contender with the smallest median."""
    return min(times, key=lambda name: statistics.median(times[name]))


def significant(number: float, digits: int = 4) -> float:
    """Rounded, so that a results file does not show digits that mean nothing."""
    return float(f"{number:.{digits}g}")


def summarise(measured: dict[str, Measurement], ours: str, task: str = "step") -> dict[str, dict[str, Any]]:
    """What results.json keeps of one task: for each contender its times, their median, and the ratio to `ours`."""
    summary: dict[str, dict[str, Any]] = {}
    for name, m in measured.items():
        if m.missing is not None:
            summary[name] = {"missing": m.missing}
            continue
        seconds = [significant(s) for s in m.seconds[task]]
        summary[name] = {"median": significant(statistics.median(seconds)), "seconds": seconds}
        if m.peak_bytes is not None:
            summary[name]["peak_bytes"] = m.peak_bytes
        if name != ours and measured[ours].missing is None:
            summary[name]["ratio"] = paired_ratio(measured[ours].seconds[task], m.seconds[task])
    return summary
