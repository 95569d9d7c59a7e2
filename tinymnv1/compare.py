"""Runs beside each other: `python -m tinymnv1.compare RUN RUN ...`. A table, and their curves in one picture."""

import csv
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tinymnv1 import plots
from tinymnv1.cli import CommandParser, path_argument, run_command
from tinymnv1.errors import CheckpointError, ConfigError
from tinymnv1.recipes import FIELDS, TrainConfig, shown
from tinymnv1.trainer import COLUMNS, Row


@dataclass(frozen=True)
class Log:
    """What a run wrote about itself for people: its settings, and the rows of metrics.csv.

    The accuracy and loss on validation images are called test_accuracy and test_loss here, too, as in the trainer.
    """

    folder: Path
    config: TrainConfig
    history: list[Row]

    @property
    def held_out(self) -> str:
        """Which images it was evaluated on."""
        return "validation" if self.config.validation else "test"

    @property
    def seconds(self) -> float:
        """Of all epochs: training, the making of the batches, evaluation."""
        return math.fsum(row["seconds"] for row in self.history)

    @property
    def images_per_second(self) -> float:
        """The median row's: the first one includes compiling."""
        return median(row["images_per_second"] for row in self.history)


def read_log(folder: Path) -> Log:
    """What a run wrote for people to read: config.json and metrics.csv of its folder.

    Raises CheckpointError if the folder holds no run, or a run without a finished epoch, or if a file is damaged.
    """
    texts = []
    for name, missing in (
        ("config.json", "holds no run; give a folder that tinymnv1.train wrote, such as runs/NAME"),
        ("metrics.csv", "has no metrics.csv: this run has not been evaluated yet"),
    ):
        try:
            texts.append((folder / name).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CheckpointError(f"{folder}: {missing}") from error
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{folder / name}: damaged: it is not text") from error
        except OSError as error:
            raise CheckpointError(f"{folder / name}: cannot be read ({error.strerror})") from error
    try:
        settings = json.loads(texts[0])
        config = TrainConfig(**settings)
        hash(config)  # not so with a list or a table as a setting
    except (ValueError, RecursionError) as error:  # a ConfigError is a ValueError
        raise CheckpointError(f"{folder / 'config.json'}: damaged ({error})") from error
    except TypeError as error:
        raise CheckpointError(f"{folder / 'config.json'}: damaged, or of another version ({error})") from error
    return Log(folder, config, _rows(folder / "metrics.csv", texts[1]))


def _rows(path: Path, text: str) -> list[Row]:
    rows: list[Row] = []
    try:
        lines = list(csv.DictReader(text.splitlines()))
    except csv.Error as error:
        raise CheckpointError(f"{path}: damaged ({error})") from error
    for line, cells in enumerate(lines, 2):
        try:
            row = {str(key).replace("validation_", "test_"): float(cell) for key, cell in cells.items()}
            rows.append({key: row[key] for key in COLUMNS})
        except (TypeError, ValueError, KeyError) as error:
            raise CheckpointError(f"{path}: damaged in line {line}") from error
        if not all(map(math.isfinite, rows[-1].values())):
            raise CheckpointError(f"{path}: damaged in line {line}: a value is not a finite number")
    if not rows:
        raise CheckpointError(f"{path}: holds no finished epoch")
    return rows


def names_of(logs: Sequence[Log]) -> list[str]:
    """The folders' own names, or their whole paths if two have the same one."""
    names = [log.folder.resolve().name for log in logs]
    return names if len(set(names)) == len(names) else [str(log.folder) for log in logs]


def differing(configs: Sequence[TrainConfig]) -> list[str]:
    """The settings in which any two of the configurations differ; where the data lies does not count."""
    return [name for name in FIELDS if name != "data_dir" and len({getattr(c, name) for c in configs}) > 1]


def duration(seconds: float) -> str:
    """Hours, minutes, seconds: "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def table(logs: Sequence[Log]) -> str:
    """A row a run: the settings that differ, how far it came, last and best accuracy, loss, time, speed."""
    settings = differing([log.config for log in logs])
    header = ["run", *settings, "done", "last", "best (epoch)", "loss", "time", "images/s"]
    rows = [[name.replace("_", "-") for name in header]]
    for name, log in zip(names_of(logs), logs, strict=True):
        last, best = log.history[-1], plots.best_row(log.history)
        done, planned = int(last["epoch"]), log.config.epochs
        rows.append(
            [
                name,
                *(shown(getattr(log.config, setting)) for setting in settings),
                f"{done}" if done == planned else f"{done} of {planned}",
                f"{100 * last['test_accuracy']:.2f} %",
                f"{100 * best['test_accuracy']:.2f} % ({best['epoch']:g})",
                f"{last['test_loss']:.4f}",
                duration(log.seconds),
                f"{log.images_per_second:,.0f}",
            ]
        )
    return align(rows)


def align(rows: Sequence[Sequence[str]]) -> str:
    """Columns of text: the first one to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = CommandParser(
        prog="python -m tinymnv1.compare",
        description=(
            "Compare runs: print the settings in which they differ, their last and best accuracy, the last loss, the"
            " time and the speed (of the median epoch), and draw their curves over each other. Runs may be of different"
            " lengths, and still be going on."
        ),
        epilog="example: python -m tinymnv1.compare runs/shapes-1 runs/shapes-2 --out both.png",
    )
    parser.add_argument("runs", type=path_argument, nargs="+", metavar="RUN", help="folders that tinymnv1.train wrote")
    parser.add_argument(
        "--out",
        type=path_argument,
        default=Path("compare.png"),
        metavar="PATH",
        help="the picture, a PNG file (default: compare.png)",
    )
    args = parser.parse_args(argv)
    if len({run.resolve() for run in args.runs}) < len(args.runs):
        raise ConfigError("a run is given twice")
    logs = [read_log(run) for run in args.runs]
    held_out = " or ".join(sorted({log.held_out for log in logs}))
    figure = plots.overlay(names_of(logs), [log.history for log in logs], held_out)
    plots.save_figure(figure, args.out)
    print(f"accuracy and loss on {held_out} images")
    print(table(logs))
    print(f"curves: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
