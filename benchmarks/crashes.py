"""Kill training at random moments and show that nothing is lost: `python -m benchmarks.crashes --runs 50`.

One run is trained in peace. Each of the others is killed with SIGKILL several times, at random moments, resumed after
each, and at last left to finish. It must then have the same weights, optimizer state, best epoch and metrics, bit for
bit. A checkpoint is written after every step, so many a kill lands in the middle of one.
"""

import argparse
import csv
import math
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

import tinymnv1.kernels  # noqa: F401  loaded before the forks, so that a child starts at once
from benchmarks.harness import BenchmarkError
from tinymnv1.checkpoint import load_checkpoint
from tinymnv1.cli import CommandParser, run_command
from tinymnv1.data import load_shapes
from tinymnv1.errors import ConfigError
from tinymnv1.runs import BEST, LAST, has_run
from tinymnv1.train import main as train

SETTINGS = (
    *("--data", "folder", "--resolution", "32", "--augment", "crop-flip", "--width", "0.25", "--dropout", "0.2"),
    *("--ema-decay", "0.9", "--epochs", "8", "--batch-size", "16", "--threads", "1"),
)
OFTEN = ("--checkpoint-minutes", "0")
KILLS = 4


def write_images(folder: Path) -> None:
    """A data set that loads in a moment: 160 training and 40 test images of shapes."""
    data = load_shapes(train=160, test=40)
    for part, images, labels in (
        ("train", data.train_images, data.train_labels),
        ("test", data.test_images, data.test_labels),
    ):
        for name in data.classes:
            (folder / part / name).mkdir(parents=True)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            Image.fromarray(image).save(folder / part / data.classes[label] / f"{i:03}.png")


def start(arguments: Sequence[str], log: Path) -> int:
    """`python -m tinymnv1.train` in a child process, its output in `log`. Returns the process's id."""
    sys.stdout.flush()
    if process := os.fork():
        return process
    status = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = run_command(lambda: train(arguments))
    finally:
        os._exit(status)


def ended(process: int, log: Path) -> bool:
    """Is the run done? Raises BenchmarkError, which names its output, if it failed."""
    done, status = os.waitpid(process, os.WNOHANG)
    if done and status:
        raise BenchmarkError(f"a run ended with status {os.waitstatus_to_exitcode(status)}; what it printed: {log}")
    return bool(done)


def finish(process: int, log: Path) -> None:
    """Wait for the end of a run."""
    while not ended(process, log):
        time.sleep(0.01)


def kill(process: int, log: Path, run: Path, saves: int, delay: float) -> bool:
    """Let the run save itself so many times, wait so many seconds more, and kill it. False if it was done before."""
    newest = when_saved(run)
    due = time.monotonic() + delay if saves == 0 else math.inf
    while time.monotonic() < due:
        if ended(process, log):
            return False
        if (now := when_saved(run)) != newest and saves > 0:
            newest, saves = now, saves - 1
            due = time.monotonic() + delay if saves == 0 else math.inf
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def when_saved(run: Path) -> int:
    """The time of the newest checkpoint in nanoseconds; 0: there is none."""
    try:
        return (run / LAST).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def what_was_hit(run: Path) -> str:
    """What a run was doing when it was killed, as its folder shows."""
    if not has_run(run):
        return "before the first checkpoint"
    if not (run / LAST).exists():
        return "between a checkpoint's two moves"
    return "as a file was written" if any(run.glob(".*")) else "between two writes"


def result(run: Path) -> dict[str, object]:
    """Everything of a finished run that must be the same: all arrays, as bytes, and the metrics without their times."""
    found: dict[str, object] = {}
    for name in (LAST, BEST):
        arrays, _ = load_checkpoint(run / name)
        found |= {f"{name}: {key}": (array.dtype, array.shape, array.tobytes()) for key, array in arrays.items()}
    with (run / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found[f"metrics.csv: {row['epoch']}"] = {
                k: v for k, v in row.items() if k not in ("images_per_second", "seconds")
            }
    found["files"] = sorted(path.name for path in run.iterdir())
    return found


def crash(folder: Path, name: str, images: Path, rng: np.random.Generator) -> list[str]:
    """Train one run to its end through several kills; returns what each of them hit.

    It begins with one thread and goes on with all: the number of threads must not matter.
    """
    run, log = folder / name, folder / f"{name}.log"
    hits: list[str] = []
    while True:
        again = ("--resume", str(run)) if has_run(run) else (*SETTINGS, "--data-dir", str(images), "--out", str(run))
        process = start((*again, *OFTEN), log)
        if len(hits) == KILLS:
            finish(process, log)
            return hits
        saves = int(rng.integers(0, 36))  # of about ninety in all; the time of a step is below a tenth of a second
        if not kill(process, log, run, saves, rng.uniform(0, 0.1 if saves else 1.0)):
            return hits
        hits.append(what_was_hit(run))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = CommandParser(
        prog="python -m benchmarks.crashes",
        description="Kill small training runs with SIGKILL at random moments, resume them, and compare each with the"
        " run that was left in peace, bit for bit. Exit status 1 and the folder, kept, if one differs.",
    )
    parser.add_argument("--runs", type=int, default=50, metavar="N", help=f"up to {KILLS} kills each (default: 50)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments (default: 0)")
    args: argparse.Namespace = parser.parse_args(argv)
    if args.runs < 1:
        raise ConfigError(f"--runs must be at least 1, got {args.runs}")
    if args.seed < 0:
        raise ConfigError(f"--seed must be at least 0, got {args.seed}")
    if not hasattr(os, "fork"):
        raise ConfigError("this system has no fork and no SIGKILL; run it on Linux or macOS")
    tqdm.monitor_interval = 0  # its thread would not survive a fork
    folder = Path(tempfile.mkdtemp(prefix="crashes-"))
    images = folder / "images"
    write_images(images)
    whole = (*SETTINGS, "--data-dir", str(images), *OFTEN, "--out", str(folder / "whole"))
    finish(start(whole, folder / "whole.log"), folder / "whole.log")
    expected = result(folder / "whole")
    rng = np.random.default_rng(args.seed)
    hits: Counter[str] = Counter()
    began, different = time.monotonic(), []
    for i in tqdm(range(args.runs), unit="run", disable=None, leave=False):
        hits.update(crash(folder, f"run-{i}", images, rng))
        found = result(folder / f"run-{i}")
        if wrong := sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k)):
            different.append(f"{folder / f'run-{i}'}: {wrong[0]} differs ({len(wrong)} in all)")
    kinds = ", ".join(f"{count} {kind}" for kind, count in hits.most_common())
    print(
        f"{args.runs} runs, {hits.total()} kills ({kinds}), {time.monotonic() - began:.0f} s:"
        f" {args.runs - len(different)} of {args.runs} end as the uninterrupted run does, bit for bit"
    )
    if different:
        print("\n".join(different), file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
