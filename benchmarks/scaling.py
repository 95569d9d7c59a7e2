"""The training step on 1, 2, 4, ... threads, beside PyTorch's compiled one in channels_last."""

import statistics
from typing import Any

from benchmarks import train_step
from benchmarks.harness import Contender, Options, paired_ratio, significant, take_turns
from benchmarks.machine import cores

PYTORCH = "PyTorch compile, channels_last"


def thread_counts(most: int) -> list[int]:
    """The powers of two up to `most`, and `most`."""
    return sorted({2**k for k in range(most.bit_length())} | {most})


def run(options: Options) -> list[dict[str, Any]]:
    """Measure the training step's first case on up to all cores; --threads does not matter here."""
    case = (train_step.QUICK if options.quick else train_step.CASES)[0]
    torch_settings = {"layout": "channels_last", "compiled": True}
    counts = thread_counts(cores())
    contenders = []
    for threads in counts:
        for name, setup, settings in (
            (train_step.OURS, train_step.ours, {"fused": True}),
            (PYTORCH, train_step.pytorch, torch_settings),
        ):
            contenders.append(Contender(f"{name}, {threads}", setup, threads, case.settings() | settings))
    measured = take_turns(contenders, options.rounds, f"threads, {case.title}", check=train_step.agree)
    rows = []
    for threads in counts:
        ours, theirs = (measured[f"{name}, {threads}"] for name in (train_step.OURS, PYTORCH))
        row: dict[str, Any] = {"threads": threads}
        for key, m in (("images_per_second", ours), ("pytorch_images_per_second", theirs)):
            if m.missing is None:
                row[key] = significant(case.batch / statistics.median(m.seconds["step"]))
        if len(row) == 3:
            row["ratio"] = paired_ratio(ours.seconds["step"], theirs.seconds["step"])
        rows.append(row)
    return [{"case": case.settings(), "rows": rows}]
