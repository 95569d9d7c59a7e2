"""Our training step's and inference's time against batch, resolution and width, beside the multiply-adds."""

import dataclasses
import statistics
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from benchmarks.harness import Contender, Options, significant, take_turns
from benchmarks.network import Case
from benchmarks.worker import Job
from tinymnv1.plots import BLUE, VERMILLION

MIDDLE = Case(128, 8, 0.5, num_classes=10)
AXES = {
    "batch": (1, 2, 4, 8, 16, 32, 64),
    "resolution": (32, 64, 96, 128, 160, 192, 224),
    "width": (0.125, 0.25, 0.5, 0.75, 1.0),
}
QUICK_MIDDLE = Case(64, 4, 0.25, num_classes=10)
QUICK_AXES = {"batch": (2, 4, 8), "resolution": (32, 64, 96), "width": (0.125, 0.25, 0.5)}
KINDS = {"training": "training step", "inference": "inference"}
PREDICTED = "as the multiply-adds, through the middle point"
UNITS = {"batch": "batch (images)", "resolution": "resolution (pixels)", "width": "width multiplier"}


def ours(threads: int, **case: Any) -> Job:
    """Set up: a training step and a forward pass at one size."""
    from benchmarks import inference, train_step

    training, forward = train_step.ours(threads, fused=True, **case), inference.ours(threads, **case)
    return Job({"training": training.tasks["step"], "inference": forward.tasks["step"]})


def run(options: Options) -> list[dict[str, Any]]:
    """Measure the points of all axes in turn, their common middle once."""
    middle, axes = (QUICK_MIDDLE, QUICK_AXES) if options.quick else (MIDDLE, AXES)
    cases = {(axis, value): dataclasses.replace(middle, **{axis: value}) for axis in axes for value in axes[axis]}
    points = {case.title: Contender(case.title, ours, options.threads, case.settings()) for case in cases.values()}
    measured = take_turns(list(points.values()), options.rounds, "growth", turn_seconds=0.3)
    results = []
    for axis, values in axes.items():
        rows = []
        for value in values:
            case = cases[axis, value]
            m = measured[case.title]
            medians = {kind: significant(statistics.median(m.seconds[kind])) for kind in m.seconds if not m.missing}
            missing = {"missing": m.missing} if m.missing else {}
            rows.append({"value": value, "madds": case.madds * case.batch} | medians | missing)
        results.append({"axis": axis, "middle": middle.settings(), "rows": rows})
    return results


def picture(cases: list[dict[str, Any]], caption: str) -> Figure:
    """Training above, inference below; a column an axis. The line passes through the middle point.

    cases: what `run` returned.  caption: processor and threads.
    """
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    figure.suptitle(f"Time of a batch. {caption}", fontsize=10)
    grid = figure.subplots(len(KINDS), len(cases), sharey="row", squeeze=False)
    for panels, (kind, name) in zip(grid, KINDS.items(), strict=True):
        for axes, case in zip(panels, cases, strict=True):
            axis, middle = case["axis"], case["middle"]
            rows = [row for row in case["rows"] if kind in row]
            values = [row["value"] for row in rows]
            axes.loglog(values, [1e3 * row[kind] for row in rows], "o", color=BLUE, label="measured")
            at = next((row for row in rows if row["value"] == middle[axis]), None)
            if at is not None:
                scale = 1e3 * at[kind] / at["madds"]
                predicted = [scale * row["madds"] for row in rows]
                axes.loglog(values, predicted, "--", color=VERMILLION, label=PREDICTED)
            axes.set_xticks(values, [f"{value:g}" for value in values], fontsize=8)
            axes.set_xticks([], minor=True)
            axes.set_xlabel(UNITS[axis])
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.grid(alpha=0.3)
        panels[0].set_ylabel(f"{name} (ms)")
    fixed = cases[0]["middle"]
    titles = {
        "batch": f"{fixed['resolution']} pixels, width {fixed['width']:g}",
        "resolution": f"batch {fixed['batch']}, width {fixed['width']:g}",
        "width": f"batch {fixed['batch']}, {fixed['resolution']} pixels",
    }
    for axes, case in zip(grid[0], cases, strict=True):
        axes.set_title(titles[case["axis"]], fontsize=9)
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
