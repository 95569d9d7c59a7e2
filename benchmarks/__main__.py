"""Run the benchmarks, write results.json and bring the documents' tables up to date."""

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import growth, inference, kernels, scaling, tables, train_step
from benchmarks.harness import ROOT, Options
from benchmarks.machine import cores, describe, with_later_peaks
from tinymnv1.cli import CommandParser, path_argument, run_command
from tinymnv1.errors import ConfigError
from tinymnv1.files import write_atomically
from tinymnv1.plots import save_figure

BENCHMARKS = {
    "train_step": train_step.run,
    "inference": inference.run,
    "kernels": kernels.run,
    "growth": growth.run,
    "scaling": scaling.run,
}
DEFAULT = ("train_step", "inference", "kernels", "growth")
RESULTS, PICTURE = ROOT / "benchmarks" / "results.json", ROOT / "benchmarks" / "growth.png"
OTHERS = {name: ROOT / "benchmarks" / f"results-{name}.json" for name in ("avx2", "intel")}
"""Results of other machines, by the section that shows them. They are written with --json."""


def load(path: Path) -> dict[str, Any]:
    """The results in a file, by benchmark; none if there is no file. Raises ConfigError if it holds something else."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as results ({error}); choose another file, or delete it") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: holds no results; choose another file, or delete it")
    return found


def save(results: dict[str, Any], path: Path) -> None:
    """Write results as JSON, a list of numbers on one line."""
    text = json.dumps(results, indent=1)
    text = re.sub(r"\[[-\d.,e\s]+\]", lambda numbers: " ".join(numbers[0].split()), text)
    write_atomically(path, f"{text}\n".encode())


def check_target(path: Path) -> None:
    """Raise ConfigError if results cannot be kept there: before anything is measured."""
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{path}: {path.parent} cannot be written to; choose another file")
    load(path)


def update_documents(results: dict[str, Any]) -> None:
    """Rewrite every table, and the picture."""
    new = {
        path: with_tables(path.read_text(encoding="utf-8"), names, results) for path, names in tables.DOCUMENTS.items()
    }
    for path, text in new.items():
        write_atomically(path, text.encode())
    if "growth" in results:
        draw(results["growth"], PICTURE)


def with_tables(text: str, names: Sequence[str], results: dict[str, Any]) -> str:
    """A document's text with the tables of these sections as the results have them."""
    given = {name: load(OTHERS[name]) if name in OTHERS else results for name in names}
    return tables.replace_sections(text, {name: tables.render(given[name], name) for name in names})


def draw(result: dict[str, Any], path: Path) -> None:
    """The picture of growth."""
    machine = result["machine"]
    save_figure(growth.picture(result["cases"], f"{tables.threads(machine)} of {machine['processor']}"), path)


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = CommandParser(
        prog="python -m benchmarks",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure tinymnv1 beside PyTorch, ONNX Runtime and OpenVINO, print the tables, and keep the results"
        "\nin benchmarks/results.json, from which the tables in README.md and benchmarks/README.md are written.",
        epilog="examples:\n"
        "  python -m benchmarks                                   # all but scaling, and all tables\n"
        "  python -m benchmarks inference                         # one again, and all tables\n"
        "  python -m benchmarks train_step --json mine.json       # no document changes\n"
        "  python -m benchmarks --quick                           # does everything work? Only prints\n"
        "  python -m benchmarks --tables-only                     # the documents from results*.json\n",
    )
    names = ", ".join(BENCHMARKS)
    parser.add_argument("benchmark", nargs="*", metavar="BENCHMARK", help=f"{names} (default: {', '.join(DEFAULT)})")
    parser.add_argument("--rounds", type=int, metavar="N", help="turns of each contender (default: 9; quick: 3)")
    parser.add_argument("--threads", type=int, metavar="N", help="of each contender (default: the logical CPUs)")
    parser.add_argument(
        "--json", type=path_argument, metavar="PATH", help="keep the results there, and leave the documents"
    )
    parser.add_argument("--quick", action="store_true", help="few small cases; nothing is kept without --json")
    parser.add_argument("--tables-only", action="store_true", help="measure nothing: rewrite the documents")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    args = make_parser().parse_args(argv)
    if unknown := [name for name in args.benchmark if name not in BENCHMARKS]:
        raise ConfigError(f"there is no benchmark {unknown[0]!r}: choose from {', '.join(BENCHMARKS)}")
    if args.tables_only:
        if given := [
            k for k in ("benchmark", "rounds", "threads", "json", "quick") if getattr(args, k) not in ([], None, False)
        ]:
            name = given[0].upper() if given[0] == "benchmark" else f"--{given[0]}"
            raise ConfigError(f"--tables-only writes the documents from results.json: leave out {name}")
        update_documents(load(RESULTS))
        return 0
    rounds = args.rounds if args.rounds is not None else 3 if args.quick else 9
    threads = args.threads if args.threads is not None else cores()
    for name, value in (("--rounds", rounds), ("--threads", threads)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
    target = args.json or (None if args.quick else RESULTS)
    if target is not None:
        check_target(target)
    options = Options(rounds, threads, args.quick)
    for name in args.benchmark or DEFAULT:
        machine, cases = describe(options), BENCHMARKS[name](options)
        result = {"machine": with_later_peaks(machine, options), "rounds": rounds, "cases": cases}
        if target is not None:  # after each one: if the next fails, this one is kept
            save(load(target) | {name: result}, target)
        if target == RESULTS:
            update_documents(load(RESULTS))
        print(f"\n## {name}\n\n{tables.render({name: result}, name)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
