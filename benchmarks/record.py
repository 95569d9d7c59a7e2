"""The records page: `python -m benchmarks.record RUN ...` writes finished runs into RECORDS.md, from their own files.

What the page says of a run is read from its folder, or measured again on its last checkpoint, so that nobody types a
figure. With --ablation the runs become the ablation table instead; for that they must have been evaluated on validation
images, since settings that were chosen on the test images would make the test accuracy look better than it is.
"""

import datetime
import hashlib
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

from PIL import Image

from benchmarks.__main__ import load, save
from benchmarks.harness import ROOT, BenchmarkError
from benchmarks.machine import commit, cores, processor
from benchmarks.tables import grid, replace_sections
from tinymnv1 import __version__
from tinymnv1.cli import CommandParser, path_argument, run_command
from tinymnv1.compare import Log, differing, duration, read_log
from tinymnv1.data import load_dataset
from tinymnv1.engine import inference_engine
from tinymnv1.errors import ConfigError
from tinymnv1.files import write_atomically
from tinymnv1.plots import curves
from tinymnv1.recipes import FIELDS, RECIPES, TrainConfig, make_config, shown
from tinymnv1.runs import load_trained, resume_command
from tinymnv1.trainer import evaluate, flip_averaged

PAGE, RECORDS, PICTURES = (ROOT / "benchmarks" / name for name in ("RECORDS.md", "records.json", "records"))
NONE_YET = {"records": "*No run recorded yet.*", "ablation": "*No ablation recorded yet.*"}
Record = dict[str, Any]


def options(config: TrainConfig, base: TrainConfig) -> list[str]:
    """The options that turn `base` into `config`; where the data lies and the seed are left out."""
    found = []
    for name in differing([config, base]):
        value, flag = getattr(config, name), name.replace("_", "-")
        if name == "seed":
            continue
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            found.append(f"--{flag} {value}")
    return found


def name_of(config: TrainConfig) -> str:
    """The recipe with the fewest differences, and the options for these: "quick", "quick --epochs 2".

    A recipe that leaves the precision to the processor counts as bfloat16, so that a name is the same on any.
    """
    choices = []
    for recipe in RECIPES:
        base = make_config(recipe)
        base = replace(base, precision="bfloat16") if base.precision == "auto" else base
        choices.append([recipe, *options(config, base)])
    return " ".join(min(choices, key=len))


def command_of(config: TrainConfig) -> str:
    """The command that trains with these settings."""
    parts = ["python -m tinymnv1.train --recipe", name_of(config)]
    if config.data == "folder":
        parts.append("--data-dir DIR")
    if config.seed:
        parts.append(f"--seed {config.seed}")
    return " ".join(parts)


def settings_of(config: TrainConfig) -> Record:
    """The settings other than the defaults, to be kept: they mean the same when recipes have changed."""
    return {k: v for k, v in asdict(config).items() if k not in ("data_dir", "seed") and v != FIELDS[k].default}


def finished(run: Path) -> Log:
    """The log of a run that has come to its end. Raises BenchmarkError if it has not."""
    log = read_log(run)
    if (done := log.history[-1]["epoch"]) < log.config.epochs:
        told = f"{run}: has done {done:g} of {log.config.epochs} epochs"
        raise BenchmarkError(f"{told}: finish it with {resume_command(run)}")
    return log


def measure(run: Path, data_dir: Path | None) -> tuple[Record, Log]:
    """A finished run's record, and its log. Its last checkpoint is evaluated again, with and without flip averaging.

    data_dir: where the data lies now, if not where it was. Raises BenchmarkError if the checkpoint and metrics.csv do
    not belong together, or if the run was evaluated on validation images.
    """
    log, trained = finished(run), load_trained(run, "last")
    config, last = log.config, log.history[-1]
    if config.validation:
        raise BenchmarkError(f"{run}: was evaluated on validation images; record one on the whole training set")
    if replace(trained.config, data_dir="") != replace(config, data_dir="") or trained.epoch != config.epochs:
        raise BenchmarkError(f"{run}: last.safetensors and config.json are not of the same run")
    place = data_dir or (Path(config.data_dir) if config.data_dir else None)
    data = config.part_of(load_dataset(config.data, place, trained.preprocess.resolution))
    engine = inference_engine(trained.model)
    plain, flipped = (
        evaluate(e, data.test_images, data.test_labels, trained.preprocess, config.batch_size)
        for e in (engine, flip_averaged(engine))
    )
    images = len(data.test_labels)
    if abs(plain.accuracy - last["test_accuracy"]) * images > max(images / 2000, 1):  # another CPU rounds otherwise
        raise BenchmarkError(
            f"{run}: metrics.csv says {100 * last['test_accuracy']:.2f} %, but last.safetensors has"
            f" {100 * plain.accuracy:.2f} %: not of the same run, or not on the same data"
        )
    settings = settings_of(config)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    record = {
        "seed": config.seed,
        "settings": settings,
        "test_images": images,
        "accuracy": last["test_accuracy"],
        "loss": last["test_loss"],
        "flip_accuracy": flipped.accuracy,
        "seconds": log.seconds,
        "curve": f"{config.data}-{digest}-seed-{config.seed}.png",
        "processor": processor(),
        "cores": cores(),
        "date": datetime.date.fromtimestamp((run / "metrics.csv").stat().st_mtime).isoformat(),
        "version": __version__,
        "commit": commit(),
    }
    return record, log


def picture(record: Record, log: Log) -> bytes:
    """The run's curves as a small PNG: few colours are enough for lines."""
    png = io.BytesIO()
    c = log.config
    title = f"{c.data}, width {c.width:g}, {c.epochs} epochs, seed {c.seed}: {100 * record['accuracy']:.2f} %"
    curves(log.history, title, log.held_out).savefig(png, format="png", dpi=80)
    small = io.BytesIO()
    Image.open(png).convert("RGB").quantize(32).save(small, "PNG", optimize=True)
    return small.getvalue()


def ablation_of(logs: Sequence[Log]) -> Record:
    """The ablation from finished runs: the first has the base settings; a row are those that differ in the seed alone.

    Raises BenchmarkError unless all were evaluated on the same validation images.
    """
    base = logs[0].config
    for log in logs:
        if not log.config.validation:
            raise BenchmarkError(f"{log.folder}: was evaluated on the test images; an ablation needs --validation N")
        same = {"data", "validation", "limit"} | ({"seed"} if base.limit else set())  # the seed chooses what is left
        if wrong := same & set(differing([base, log.config])):
            raise BenchmarkError(f"{log.folder}: has another --{min(wrong)} than {logs[0].folder}")
    rows: dict[str, dict[int, float]] = {}
    for log in logs:
        row = rows.setdefault(" ".join(options(log.config, base)), {})
        if log.config.seed in row:
            raise BenchmarkError(f"{log.folder}: another run has the same settings and the same seed")
        row[log.config.seed] = log.history[-1]["test_accuracy"]
    return {
        "base": settings_of(base),
        "validation": min(base.validation, base.limit or base.validation),
        "rows": [{"options": told, "accuracies": list(by_seed.values())} for told, by_seed in rows.items()],
        "processor": processor(),
        "date": datetime.date.today().isoformat(),
    }


def render(kept: Record, section: str) -> str:
    """A section's markdown from the content of records.json."""
    if not kept.get(section):
        return NONE_YET[section]
    return {"records": records_table, "ablation": ablation_table}[section](kept[section])


def percent(share: float) -> str:
    """Two digits after the point."""
    return f"{100 * share:.2f} %"


def records_table(records: Sequence[Record]) -> str:
    """A row a run, and one for the mean of those that differ in the seed alone; below, how each was made."""
    groups: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda r: r["seed"]):
        # The settings decide, and the name follows from them: a recipe may have changed since.
        groups.setdefault(name_of(TrainConfig(**record["settings"])), []).append(record)
    rows, parts = [], []
    for name, group in sorted(groups.items()):
        for r in group:
            cells = [percent(r["accuracy"]), percent(r["flip_accuracy"]), duration(r["seconds"])]
            rows.append([f"`{name}`", str(r["seed"]), f"{r['processor']}, {r['cores']} cores", *cells, r["date"]])
        if len(group) > 1:
            means = [mean(r[key] for r in group) for key in ("accuracy", "flip_accuracy", "seconds")]
            cells = [f"**{percent(means[0])}**", f"**{percent(means[1])}**", duration(means[2])]
            rows.append([f"`{name}`", f"mean of {len(group)}", "", *cells, ""])
        parts.append(_how(name, group))
    header = ["run", "seed", "CPU", "test accuracy, last epoch", "with flip averaging", "time", "date"]
    return "\n\n".join([grid(header, rows, left=3), *parts])


def _how(name: str, group: Sequence[Record]) -> str:
    settings = ", ".join(f"{key.replace('_', '-')} {shown(value)}" for key, value in group[0]["settings"].items())
    commands = "\n".join(command_of(TrainConfig(**r["settings"], seed=r["seed"])) for r in group)
    lines = [f"### {name}", f"```\n{commands}\n```"]
    lines.append(f"Settings other than the defaults: {settings or 'none'}.")
    for r in group:
        at = f"tinymnv1 {r['version']}" + (f", commit {r['commit']}" if r["commit"] else "")
        lines.append(f"Seed {r['seed']}: loss {r['loss']:.4f} on {r['test_images']:,} test images; recorded with {at}.")
        lines.append(f"![Loss, accuracy and learning rate against the epoch](records/{r['curve']})")
    return "\n\n".join(lines)


def ablation_table(ablation: Record) -> str:
    """A row a set of options, with the difference from the base in points."""
    base = mean(ablation["rows"][0]["accuracies"])
    recipe = name_of(TrainConfig(**ablation["base"]))
    rows = []
    for row in ablation["rows"]:
        found = row["accuracies"]
        spread = f"{100 * min(found):.2f}-{100 * max(found):.2f}" if len(found) > 1 else "-"
        gain = f"{100 * (mean(found) - base):+.2f}" if row["options"] else "-"
        rows.append([f"`{row['options']}`" if row["options"] else "base", percent(mean(found)), spread, gain])
        rows[-1].insert(1, str(len(found)))
    table = grid(["changed", "seeds", "validation accuracy", "min-max (%)", "points beside base"], rows)
    return (
        f"Base: `--recipe {recipe}`. Accuracy in the last epoch on {ablation['validation']:,} training images"
        f" that were held out; {ablation['processor']}, {ablation['date']}.\n\n{table}"
    )


def update_page(kept: Record) -> None:
    """Rewrite what is between the page's markers."""
    text = PAGE.read_text(encoding="utf-8")
    new = replace_sections(text, {section: render(kept, section) for section in NONE_YET})
    write_atomically(PAGE, new.encode())


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = CommandParser(
        prog="python -m benchmarks.record",
        description=(
            "Write finished runs into benchmarks/RECORDS.md. Their last checkpoints are evaluated again, with and"
            " without flip averaging. A run with the settings and the seed of a recorded one replaces it. Do it on the"
            " machine that trained the run: the page names this machine's CPU."
        ),
    )
    parser.add_argument("runs", type=path_argument, nargs="*", metavar="RUN", help="folders that tinymnv1.train wrote")
    parser.add_argument("--ablation", action="store_true", help="write the ablation table from these, the base first")
    parser.add_argument("--data-dir", type=path_argument, help="where the data lies now (default: each run's own)")
    parser.add_argument("--tables-only", action="store_true", help="read no run: the page again from records.json")
    args = parser.parse_args(argv)
    if args.tables_only == bool(args.runs):
        raise ConfigError("give the folders of finished runs, or --tables-only and none")
    if (args.ablation or args.data_dir) and args.tables_only:
        raise ConfigError("--tables-only reads no run: leave --ablation and --data-dir out")
    if args.ablation and args.data_dir:
        raise ConfigError("--ablation takes the accuracies as the runs wrote them: leave --data-dir out")
    kept, told = load(RECORDS), ""
    if args.ablation:
        kept["ablation"] = ablation_of([finished(run) for run in args.runs])
        told = ablation_table(kept["ablation"])
    elif args.runs:
        measured = [measure(run, args.data_dir) for run in args.runs]
        new = {record["curve"]: record for record, _ in measured}
        if len(new) < len(measured):
            raise BenchmarkError("two of these runs have the same settings and the same seed")
        PICTURES.mkdir(exist_ok=True)
        for record, log in measured:
            write_atomically(PICTURES / record["curve"], picture(record, log))
        kept["records"] = [r for r in kept.get("records", []) if r["curve"] not in new] + list(new.values())
        told = records_table(list(new.values()))
    if args.runs:
        save(kept, RECORDS)
    update_page(kept)
    print(told, end="\n" * bool(told))  # last: nothing is lost if nobody reads it
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
