"""The records page: every figure on it comes from a run's own files, and what does not fit together is refused."""

import copy
import csv
import json
import re
import shutil
from dataclasses import replace

import pytest
from PIL import Image
from written_runs import write_run

from benchmarks import record
from benchmarks.__main__ import load
from benchmarks.harness import BenchmarkError
from tinymnv1.cli import run_command
from tinymnv1.compare import read_log
from tinymnv1.data import load_shapes
from tinymnv1.recipes import RECIPES, TrainConfig, make_config
from tinymnv1.runs import new_run_folder
from tinymnv1.train import make_parser
from tinymnv1.trainer import Trainer

CONFIG = TrainConfig(epochs=2, batch_size=20, lr=0.01, limit=60)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A real run on 60 of the shapes."""
    folder = new_run_folder(tmp_path_factory.mktemp("runs") / "real")
    Trainer(CONFIG, CONFIG.part_of(load_shapes(200, 100)), folder).fit()
    return folder


@pytest.fixture
def page(tmp_path, monkeypatch):
    """An empty page of its own, with the real one's text; and the data of the run above."""
    text = record.PAGE.read_text(encoding="utf-8")
    monkeypatch.setattr(record, "PAGE", tmp_path / "RECORDS.md")
    monkeypatch.setattr(record, "RECORDS", tmp_path / "records.json")
    monkeypatch.setattr(record, "PICTURES", tmp_path / "records")
    monkeypatch.setattr(record, "load_dataset", lambda *arguments: load_shapes(200, 100))
    record.PAGE.write_text(text, encoding="utf-8")
    record.update_page({})
    return tmp_path


def run(capsys, *arguments):
    """(status, standard output, standard error) of the command line."""
    try:
        status = run_command(lambda: record.main([str(a) for a in arguments]))
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()


def test_the_page_shows_the_records_that_are_kept():
    """`python -m benchmarks.record --tables-only` mends it."""
    kept, text = load(record.RECORDS), record.PAGE.read_text(encoding="utf-8")
    sections = {section: record.render(kept, section) for section in record.NONE_YET}
    assert record.replace_sections(text, sections) == text
    for entry in kept.get("records", []):
        assert (record.PICTURES / entry["curve"]).stat().st_size < 100_000
    assert not re.search(r"(^|[\s\"'])(/|[A-Z]:\\)\w", json.dumps(kept)), "a path in the records"


def test_a_run_is_recorded_with_its_figures_and_its_curves(trained, page, capsys):
    status, out, err = run(capsys, trained)
    assert status == 0, err
    (entry,) = load(record.RECORDS)["records"]
    with (trained / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert entry["accuracy"] == float(rows[-1]["test_accuracy"])
    assert entry["seconds"] == pytest.approx(sum(float(row["seconds"]) for row in rows))
    assert entry["test_images"] == 60
    assert entry["settings"] == {"epochs": 2, "batch_size": 20, "lr": 0.01, "limit": 60}
    command = "python -m tinymnv1.train --recipe quick --limit 60 --epochs 2 --batch-size 20 --lr 0.01"
    text = record.PAGE.read_text()
    assert record.NONE_YET["records"] not in text
    for part in (command, record.percent(entry["flip_accuracy"]), entry["date"], entry["processor"]):
        assert part in text
    assert out.strip() in text
    picture = page / "records" / entry["curve"]
    assert f"(records/{entry['curve']})" in text
    with Image.open(picture) as image:
        assert image.size[0] > 600
        assert len(image.convert("L").getcolors()) > 10, "a blank picture"
    assert picture.stat().st_size < 50_000
    before = text, record.RECORDS.read_bytes()
    assert run(capsys, trained)[0] == 0
    assert (record.PAGE.read_text(), record.RECORDS.read_bytes()) == before, "it replaces itself"
    record.PAGE.write_text(text.replace("60 test images", "many test images"))
    assert run(capsys, "--tables-only")[0] == 0
    assert record.PAGE.read_text() == text


def test_flip_averaging_is_measured_and_not_copied(trained, page, monkeypatch):
    """Were the mirror images left out, its accuracy would be the plain one."""
    monkeypatch.setattr(record, "flip_averaged", lambda engine: lambda x: -engine(x))
    entry, _ = record.measure(trained, None)
    assert entry["flip_accuracy"] != entry["accuracy"]


def other_seed(trained, run, change):
    shutil.copytree(trained, run)
    config = json.loads((run / "config.json").read_text()) | change
    (run / "config.json").write_text(json.dumps(config))


def better(trained, run):
    shutil.copytree(trained, run)
    lines = (run / "metrics.csv").read_text().splitlines()
    cells = lines[-1].split(",")
    cells[6] = "0.999"
    (run / "metrics.csv").write_text("\n".join([*lines[:-1], ",".join(cells)]) + "\n")


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda trained, run: None, "holds no run"),
        (lambda trained, run: write_run(run, replace(CONFIG, epochs=3), [0.1, 0.2]), "has done 2 of 3 epochs"),
        (lambda trained, run: write_run(run, CONFIG, [0.1, 0.2]), "no such checkpoint"),
        (lambda trained, run: other_seed(trained, run, {"seed": 1}), "not of the same run"),
        (lambda trained, run: other_seed(trained, run, {"validation": 5}), "validation images"),
        (better, "metrics.csv says 99.90 %"),
    ],
)
def test_what_does_not_fit_together_is_one_line_and_changes_nothing(make, word, trained, page, capsys):
    make(trained, page / "bad")
    before = record.PAGE.read_text()
    status, out, err = run(capsys, trained, page / "bad")  # the good one is not recorded either
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert word in err
    assert record.PAGE.read_text() == before
    assert not record.RECORDS.exists()
    assert not record.PICTURES.exists()


def test_wrong_arguments(trained, page, capsys):
    for arguments, word in (
        ((), "--tables-only"),
        (("--ablation",), "--tables-only"),
        ((trained, trained), "same seed"),
        (("--tables-only", "--ablation"), "leave --ablation"),
        (("--ablation", trained, "--data-dir", "."), "leave --data-dir"),
    ):
        status, out, err = run(capsys, *arguments)
        assert (status, out, err.count("\n")) == (2, "", 1), err
        assert word in err
    assert not record.RECORDS.exists()


@pytest.mark.parametrize(
    "config",
    [
        *(make_config(name) for name in RECIPES),
        make_config("cifar10-fast", precision="float32"),
        make_config("cifar10-record", seed=3, lr=0.125, nesterov=False, momentum=0.0),
        make_config("quick", normalise=False, weight_decay=1e-05, data="folder", data_dir="pets"),
    ],
    ids=lambda config: record.name_of(config),
)
def test_the_command_gives_the_configuration(config):
    """The parser of the command line reads it back."""
    config = replace(config, precision=config.precision.replace("auto", "bfloat16"))  # as a run on AVX-512 BF16 has it
    words = record.command_of(config).replace("DIR", "pets").split()[3:]
    args = vars(make_parser().parse_args(words))
    recipe = args.pop("recipe")
    settings = {name: value for name, value in args.items() if name in TrainConfig.__dataclass_fields__}
    made = make_config(recipe, **settings)
    assert replace(made, precision=made.precision.replace("auto", "bfloat16")) == config


def test_seeds_of_one_configuration_get_a_mean(trained, page):
    entry, _ = record.measure(trained, None)
    other = copy.deepcopy(entry) | {"seed": 1, "accuracy": 0.75, "flip_accuracy": 0.5, "seconds": 100.0}
    entry |= {"accuracy": 0.25, "flip_accuracy": 1.0, "seconds": 0.0}
    table = record.records_table([other, entry])
    assert table.count("| mean of 2 |") == 1
    assert "| **50.00 %** | **75.00 %** | 0:00:50 |" in table
    assert "mean of" not in record.records_table([entry, other | {"settings": entry["settings"] | {"lr": 0.02}}])


def test_a_record_keeps_its_settings_when_its_recipe_changes(trained, page, monkeypatch):
    """It is then no longer that recipe, but that recipe with options, and no mean with the new one's runs."""
    entry, _ = record.measure(trained, None)
    old = make_config("cifar10-fast", precision="bfloat16")
    then = entry | {"settings": old.__dict__ | {"data_dir": ""}}
    del then["settings"]["seed"]
    monkeypatch.setitem(RECIPES, "cifar10-fast", ("", RECIPES["cifar10-fast"][1] | {"epochs": 5}))
    now = then | {"settings": then["settings"] | {"epochs": 5}, "seed": 1}
    table = record.records_table([then, now])
    assert f"| `cifar10-fast --epochs {old.epochs}` | 0 |" in table
    assert f"python -m tinymnv1.train --recipe cifar10-fast --epochs {old.epochs}\n" in table
    assert "| `cifar10-fast` | 1 |" in table
    assert "mean of" not in table


def test_the_ablation_is_beside_its_base_and_over_seeds(tmp_path, page, capsys, monkeypatch):
    base = make_config("cifar10-fast", validation=5000, epochs=2, precision="bfloat16")
    made = {
        "a": (base, [0.1, 0.5]),
        "b": (replace(base, seed=1), [0.9, 0.75]),
        "c": (replace(base, label_smoothing=0.0, nesterov=False), [0.1, 0.6]),
    }
    runs = [write_run(tmp_path / name, *content) for name, content in made.items()]
    status, out, err = run(capsys, "--ablation", *runs)
    assert status == 0, err
    assert "| base | 2 | 62.50 % | 50.00-75.00 | - |" in out
    assert "| `--no-nesterov --label-smoothing 0.0` | 1 | 60.00 % | - | -2.50 |" in out
    assert "Base: `--recipe cifar10-fast --validation 5000 --epochs 2`" in out
    assert "on 5,000 training images" in out
    assert out.strip() in record.PAGE.read_text()
    assert record.NONE_YET["records"] in record.PAGE.read_text()
    monkeypatch.setitem(RECIPES, "cifar10-fast", ("", RECIPES["cifar10-fast"][1] | {"lr": 1.0}))  # changed since
    status, _, err = run(capsys, "--tables-only")
    assert status == 0, err
    assert f"Base: `--recipe cifar10-fast --validation 5000 --epochs 2 --lr {base.lr}`" in record.PAGE.read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation": 0}, "needs --validation"),
        ({"validation": 10}, "has another --validation"),
        ({"limit": 10}, "has another --limit"),
        ({"limit": 10, "seed": 1}, "has another --limit"),
        ({}, "same settings and the same seed"),
    ],
)
def test_an_ablation_compares_like_with_like(tmp_path, change, message):
    base = make_config("quick", validation=5, epochs=1)
    logs = [read_log(write_run(tmp_path / name, c, [0.5])) for name, c in (("a", base), ("b", replace(base, **change)))]
    with pytest.raises(BenchmarkError, match=message):
        record.ablation_of(logs)


def test_the_seed_chooses_the_images_of_a_limited_ablation(tmp_path):
    base = make_config("quick", validation=50, limit=20, epochs=1)
    logs = [read_log(write_run(tmp_path / str(seed), replace(base, seed=seed), [0.5])) for seed in range(2)]
    with pytest.raises(BenchmarkError, match="has another --seed"):
        record.ablation_of(logs)
    assert record.ablation_of(logs[:1])["validation"] == 20, "of the 50 that were held out, what --limit leaves"
