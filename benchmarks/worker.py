"""One contender's process: it sets itself up, then measures itself whenever it is told to, and otherwise sleeps.

It reads and writes lines of JSON. The first line that it reads says what to set up; it answers with "output". Each
further line is a turn; it answers with the median seconds of each task, and its peak memory. Or it answers with
"missing", a reason, and ends.
"""

import contextlib
import importlib
import json
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

WARM_UP, MIN_CALLS = 3, 3


@dataclass(frozen=True)
class Job:
    """What a contender's setup returns.

    tasks: what is timed, by name.  output: what came out of its computation; contenders of one benchmark must agree.
    """

    tasks: dict[str, Callable[[], object]]
    output: Any = None


def reason(error: BaseException) -> str:
    """One line on why a contender is missing, without folders: results are published."""
    line = next(iter(str(error).strip().splitlines()), "")
    line = re.sub(r"(?:[A-Za-z]:)?[/\\](?:[^\s'\",:;()]+[/\\])*", "", line)
    return f"{type(error).__name__}: {line}"[:160]


def peak_bytes() -> int | None:
    """The most physical memory this process has held so far, interpreter and libraries included.

    Linux's own count is read from its file: `getrusage` hands a child the peak of the parent that started it.
    """
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        if found := re.search(r"VmHWM:\s+(\d+) kB", status):
            return int(found[1]) * 1024
    with contextlib.suppress(ImportError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return None


def seconds_per_call(task: Callable[[], object], turn_seconds: float) -> float:
    """Median of as many calls as fill a turn, after one that is not counted: the caches belonged to another process."""
    task()
    times: list[float] = []
    end = time.perf_counter() + turn_seconds
    while len(times) < MIN_CALLS or time.perf_counter() < end:
        start = time.perf_counter()
        task()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def main() -> None:
    """Serve until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a library that prints must not garble the answers

    def answer(**message: Any) -> None:
        print(json.dumps(message), file=answers, flush=True)

    request = json.loads(sys.stdin.readline())
    try:
        module, function = request["setup"].split(":")
        job: Job = getattr(importlib.import_module(module), function)(**request["settings"])
        for task in job.tasks.values():
            for _ in range(WARM_UP):
                task()
        answer(output=job.output)
        for _ in sys.stdin:
            seconds = {name: seconds_per_call(task, request["turn_seconds"]) for name, task in job.tasks.items()}
            answer(seconds=seconds, peak_bytes=peak_bytes())
    except Exception as error:  # whatever it is, the others go on, and the table shows the reason
        answer(missing=reason(error))


if __name__ == "__main__":
    main()
