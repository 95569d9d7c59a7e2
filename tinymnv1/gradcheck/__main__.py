"""The command line: `python -m tinymnv1.gradcheck`. See README.md beside this file."""

import contextlib
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from tinymnv1.cli import CommandParser, path_argument, run_command
from tinymnv1.errors import ConfigError
from tinymnv1.files import write_atomically
from tinymnv1.gradcheck import grade, lab, ones, own, report
from tinymnv1.gradcheck.findings import MISSING, PASSED, FunctionResult
from tinymnv1.gradcheck.mutants import MUTANTS
from tinymnv1.gradcheck.spec import OpSpec, select
from tinymnv1.gradcheck.stub import stub


def parser() -> CommandParser:
    """The arguments."""
    p = CommandParser(
        prog="python -m tinymnv1.gradcheck",
        description=(
            "Check gradients. Without arguments: this project's own ops, layers and model. With a file: grade the ops"
            " that it defines. Exit status: 0 if all passed; 1 if something failed, is not attempted yet, or is absent"
            " though --only names it, or if a mutant survived; 2 for a mistake in the call."
        ),
    )
    p.add_argument("file", type=path_argument, nargs="?", metavar="my_ops.py", help="a file with ops of your own")
    p.add_argument("--only", metavar="NAMES", help="lessons, ops or functions, such as depthwise,batchnorm")
    p.add_argument(
        "--json", type=path_argument, metavar="FILE", help="also write the result as Gradescope's results.json"
    )
    p.add_argument("--seed", type=int, default=None, help="of the random inputs (default: 0)")
    p.add_argument("--timeout", type=float, metavar="S", help="seconds for one op (default: 10) or one mutant (30)")
    other = p.add_argument_group("instead of grading").add_mutually_exclusive_group()
    other.add_argument(
        "--stub",
        type=path_argument,
        nargs="?",
        const=Path("my_ops.py"),
        metavar="FILE",
        help="write a file to start from",
    )
    other.add_argument(
        "--mutants", type=path_argument, metavar="my_checks.py", help="try your own checks on broken ops"
    )
    other.add_argument("--ones", action="store_true", help="show what an upstream gradient of ones lets pass")
    other.add_argument(
        "--plot",
        type=path_argument,
        nargs="?",
        const=Path("gradcheck.png"),
        metavar="FILE",
        help="draw the error against the step size",
    )  # fmt: skip
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    args = parser().parse_args(argv)
    if args.seed is not None and args.seed < 0:
        raise ConfigError(f"--seed must be 0 or above, got {args.seed}")
    if args.timeout is not None and not 0 < args.timeout < 1e6:
        raise ConfigError(f"--timeout must be a number of seconds above 0, got {args.timeout}")
    alone = next((name for name in ("stub", "mutants", "ones", "plot") if getattr(args, name)), None)
    if alone and args.file:
        raise ConfigError(f"--{alone} takes no file to grade beside it ({args.file}): run the two one after the other")
    if args.json and not args.file:
        raise ConfigError("--json belongs to the grading of a file: python -m tinymnv1.gradcheck my_ops.py --json FILE")
    if args.plot and args.only:
        raise ConfigError("--only has nothing to choose from in --plot: leave it out")
    if args.seed is not None and (args.stub or args.mutants):
        raise ConfigError(f"--seed changes nothing with --{alone}: leave it out")
    if args.timeout is not None and not (args.file or args.mutants):
        raise ConfigError("--timeout is for functions of your own: name a file to grade, or --mutants and one")
    args.seed = args.seed or 0
    if args.stub:
        return write_stub(args.stub, select(args.only))
    if args.plot:
        return draw(args.plot, args.seed)
    if args.ones:
        rows = ones.compare(select(args.only), args.seed)
        if not rows:
            raise ConfigError(
                f"--only {args.only}: no broken op that --ones compares is one of these; leave --only out"
            )
        print(ones.text(rows))
        return 0
    if args.mutants:
        return mutation_lab(args)
    return grade_learner(args) if args.file else check_ourselves(args)


def write_stub(path: Path, specs: Sequence[OpSpec]) -> int:
    """--stub: write the starting file, over nothing."""
    _require_python(path)
    if path.exists():
        raise ConfigError(f"{path} exists already and is left as it is; name another file: --stub FILE")
    _write(path, stub(path.name, specs).encode())
    print(f"{path}: fill in the functions, then run  python -m tinymnv1.gradcheck {shlex.quote(str(path))}")
    return 0


def draw(path: Path, seed: int) -> int:
    """--plot: the error explorer."""
    from tinymnv1.gradcheck.plots import error_explorer  # matplotlib takes a second to load: only here
    from tinymnv1.plots import save_figure

    save_figure(error_explorer(seed), path)
    print(f"error against step size: {path}")
    return 0


def _require_python(path: Path) -> None:
    if path.suffix != ".py":
        raise ConfigError(f"{path} is not a Python file: its name must end in .py")


def mutation_lab(args: Namespace) -> int:
    """--mutants: which broken ops do the learner's checks let live?"""
    specs = select(args.only)
    _require_python(args.mutants)
    total = sum(mutant.spec in specs for mutant in MUTANTS)
    with tqdm(total=total, unit="mutant", disable=None, leave=False) as bar:
        result = lab.run_lab(args.mutants, specs, args.timeout or lab.SECONDS, lambda _: bar.update())
    print(lab.text(result))
    return 0 if result.passed else 1


def grade_learner(args: Namespace) -> int:
    """With a file: grade it."""
    specs = select(args.only)
    _require_python(args.file)
    if args.json:
        _require_place(args.json)
        if args.json.exists() and args.file.exists() and args.json.samefile(args.file):
            raise ConfigError(f"--json {args.json} is the file that is to be graded: name another one")
    started = time.monotonic()
    try:
        with tqdm(total=len(specs), unit="op", disable=None, leave=False) as bar:
            results = grade.grade_file(
                args.file, specs, args.seed, args.timeout or grade.SECONDS, done=lambda _: bar.update()
            )
    except ConfigError as error:
        if args.json:  # an autograder needs its file, above all when nothing could be graded
            _write(args.json, report.gradescope_refused(str(error)))
        raise
    if args.json:
        _write(args.json, report.gradescope(results, time.monotonic() - started))
    print(report.text(results))
    # A file for one lesson need not have the others; but what --only names has to be there.
    counted = [r for r in results if r.status != MISSING or args.only or _half(r.op, results)]
    return 0 if all(r.status == PASSED for r in counted) else 1


def _half(op: str, results: Sequence[FunctionResult]) -> bool:
    """Whether the file has one function of an op but not the other."""
    return len({r.status == MISSING for r in results if r.op == op}) == 2


def check_ourselves(args: Namespace) -> int:
    """Without a file: check the project itself."""
    parts = own.sections(args.seed, select(args.only), whole=not args.only)
    rows: list[own.Row] = []
    for part in tqdm(parts, unit="part", disable=None, leave=False):
        rows += part
    print(own.table(rows))
    return 0 if all(row.passed for row in rows) else 1


def _require_place(path: Path) -> None:
    """Raise ConfigError now, not after the work, if `path` cannot be written."""
    existed = path.exists()
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    if not existed:
        with contextlib.suppress(OSError):
            path.unlink()


def _write(path: Path, content: bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(run_command(main))
