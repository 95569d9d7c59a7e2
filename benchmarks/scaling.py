"""The training step on 1, 2, 4, ... threads, beside PyTorch's in channels_last, eager and compiled."""

import statistics
from typing import Any

from benchmarks import train_step
from benchmarks.harness import Contender, Measurement, Options, best, paired_ratio, significant, take_turns

MODES = ("eager", "compile")
SPEEDS = ("images_per_second", "pytorch_images_per_second")
"""In results.json: of ours, and of the faster of PyTorch's modes, which "mode" names."""


def thread_counts(most: int) -> list[int]:
    """The powers of two up to `most`, and `most`."""
    return sorted({2**k for k in range(most.bit_length())} | {most})


def row(threads: int, batch: int, ours: Measurement, theirs: dict[str, Measurement]) -> dict[str, Any]:
    """One number of threads: images per second, and the paired ratio. theirs: by mode."""
    found: dict[str, Any] = {"threads": threads}
    if ours.missing is None:
        found[SPEEDS[0]] = significant(batch / statistics.median(ours.seconds["step"]))
    times = {mode: m.seconds["step"] for mode, m in theirs.items() if m.missing is None}
    if times:
        found["mode"] = best(times)
        found[SPEEDS[1]] = significant(batch / statistics.median(times[found["mode"]]))
        if ours.missing is None:
            found["ratio"] = paired_ratio(ours.seconds["step"], times[found["mode"]])
    return found


def run(options: Options) -> list[dict[str, Any]]:
    """Measure the training step's first case on 1, 2, 4, ... up to `options.threads` threads."""
    case = (train_step.QUICK if options.quick else train_step.CASES)[0]
    counts = thread_counts(options.threads)
    contenders = []
    for threads in counts:
        ours = case.settings() | {"fused": True}
        contenders.append(Contender(f"{train_step.OURS}, {threads}", train_step.ours, threads, ours))
        for mode in MODES:
            theirs = case.settings() | {"layout": "channels_last", "compiled": mode == "compile"}
            contenders.append(Contender(f"{mode}, {threads}", train_step.pytorch, threads, theirs))
    measured = take_turns(contenders, options.rounds, f"threads, {case.title}", check=train_step.agree)
    rows = []
    for threads in counts:
        theirs_by_mode = {mode: measured[f"{mode}, {threads}"] for mode in MODES}
        rows.append(row(threads, case.batch, measured[f"{train_step.OURS}, {threads}"], theirs_by_mode))
    return [{"case": case.settings(), "rows": rows}]
