"""Runs beside each other: the table and the picture show what the runs wrote, and a wrong folder is one clear line."""

import numpy as np
import pytest
from PIL import Image
from written_runs import write_run

from tinymnv1 import plots
from tinymnv1.cli import run_command
from tinymnv1.compare import differing, duration, main, names_of, read_log, table
from tinymnv1.recipes import TrainConfig


def compare(capsys, *arguments):
    """(status, standard output, standard error) of the command line."""
    try:
        status = run_command(lambda: main([str(a) for a in arguments]))
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()


@pytest.fixture
def runs(tmp_path):
    """Two runs of different settings, lengths and folders; the second is not finished."""
    a = write_run(tmp_path / "a", TrainConfig(epochs=3, lr=0.1, data_dir="here"), [0.5, 0.75, 0.625])
    b = write_run(tmp_path / "b", TrainConfig(epochs=5, lr=0.1, seed=1, data_dir="there"), [0.25, 0.5])
    return a, b


def test_the_table_says_what_differs_and_how_it_went(runs, tmp_path, capsys):
    status, out, _ = compare(capsys, *runs, "--out", tmp_path / "c.png")
    assert status == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines == [
        "accuracy and loss on test images",
        "run epochs seed done last best (epoch) loss time images/s",
        "a 3 0 3 62.50 % 75.00 % (2) 0.3750 0:03:00 1,001",
        "b 5 1 2 of 5 50.00 % 50.00 % (2) 0.5000 0:02:00 1,000",
        f"curves: {tmp_path / 'c.png'}",
    ]
    with Image.open(tmp_path / "c.png") as picture:
        assert min(picture.size) > 700


def test_columns_line_up(runs):
    assert len({len(line) for line in table([read_log(run) for run in runs]).splitlines()}) == 1


def test_validation_and_test_images_are_not_taken_for_each_other(runs, tmp_path, capsys):
    held = write_run(tmp_path / "held", TrainConfig(validation=10), [0.5])
    assert read_log(held).history[0]["test_accuracy"] == 0.5
    _, out, _ = compare(capsys, held, "--out", tmp_path / "c.png")
    assert "on validation images" in out
    _, out, _ = compare(capsys, held, runs[0], "--out", tmp_path / "c.png")
    assert "on test or validation images" in out


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path):
    logs = [read_log(write_run(tmp_path / part / "run", TrainConfig(), [0.5])) for part in "ab"]
    assert names_of(logs) == [str(tmp_path / part / "run") for part in "ab"]
    assert names_of(logs[:1]) == ["run"]
    assert differing([TrainConfig(data_dir="x"), TrainConfig(data_dir="y", width=1.0)]) == ["width"]


def test_a_duration_has_hours_and_no_days():
    assert [duration(s) for s in (0.4, 61, 3723.6, 90_061)] == ["0:00:00", "0:01:01", "1:02:04", "25:01:01"]


def test_the_picture_holds_every_run(runs):
    logs = [read_log(run) for run in runs]
    figure = plots.overlay(["_a", "b"], [log.history for log in logs], "test")
    train, test, accuracy, clock = figure.axes
    for k, log in enumerate(logs):
        np.testing.assert_allclose(train.lines[k].get_ydata(), [row["train_loss"] for row in log.history])
        np.testing.assert_allclose(test.lines[k].get_ydata(), [row["test_loss"] for row in log.history])
        np.testing.assert_allclose(accuracy.lines[k].get_ydata(), [100 * row["test_accuracy"] for row in log.history])
        np.testing.assert_allclose(clock.lines[k].get_xdata(), np.arange(1, len(log.history) + 1))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [" _a", "b"]


def test_many_runs_look_different_with_and_without_colour():
    styles = plots.run_styles(28)
    assert len({(s["color"], s["linestyle"]) for s in styles}) == 28
    assert len({(s["marker"], s["linestyle"]) for s in styles}) == 28
    assert len({(s["color"], s["marker"]) for s in styles}) == 28
    assert all(s["color"] != plots.YELLOW for s in styles), "yellow on white is hard to see"


def test_a_long_run_keeps_its_line_visible():
    rows = [{"epoch": e, "train_loss": 1, "test_loss": 1, "test_accuracy": 0.5, "seconds": 1} for e in range(1, 301)]
    marked = plots.overlay(["long"], [rows], "test").axes[0].lines[0].get_markevery()
    assert len(marked) < 20
    assert marked[-1] == 299


def spoil_nothing(run):
    return run / "no-such-run"


def cut_config(run):
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text[: len(text) // 2])


def other_version(run):
    (run / "config.json").write_text('{"colour": "red"}')


def impossible_setting(run):
    (run / "config.json").write_text('{"lr": -1.0}')


def list_in_config(run):
    (run / "config.json").write_text('{"normalise": []}')


def deep_config(run):
    (run / "config.json").write_text("[" * 100_000)


def binary_config(run):
    (run / "config.json").write_bytes(b"\xff\xfe\x00")


def no_metrics(run):
    (run / "metrics.csv").unlink()


def only_a_header(run):
    text = (run / "metrics.csv").read_text()
    (run / "metrics.csv").write_text(text.splitlines()[0] + "\n")


def cut_metrics(run):
    (run / "metrics.csv").write_text((run / "metrics.csv").read_text()[:-40])


def words_in_metrics(run):
    (run / "metrics.csv").write_text((run / "metrics.csv").read_text().replace("0.625", "much"))


def endless_field(run):
    """More characters than the csv module takes in one field."""
    with (run / "metrics.csv").open("a") as file:
        file.write("7" * 200_000 + "\n")


def not_finite(run):
    (run / "metrics.csv").write_text((run / "metrics.csv").read_text().replace("0.625", "nan"))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_nothing, ("no-such-run", "holds no run")),
        (cut_config, ("config.json", "damaged")),
        (other_version, ("config.json", "another version", "colour")),
        (impossible_setting, ("config.json", "damaged", "--lr")),
        (list_in_config, ("config.json", "damaged")),
        (deep_config, ("config.json", "damaged")),
        (binary_config, ("config.json", "not text")),
        (no_metrics, ("no metrics.csv", "not been evaluated")),
        (only_a_header, ("metrics.csv", "no finished epoch")),
        (cut_metrics, ("metrics.csv", "damaged in line 4")),
        (words_in_metrics, ("metrics.csv", "damaged in line 4")),
        (endless_field, ("metrics.csv", "damaged")),
        (not_finite, ("metrics.csv", "line 4", "not a finite number")),
    ],
)
def test_a_run_that_cannot_be_read_is_one_line_and_no_picture(runs, spoil, words, tmp_path, capsys):
    bad = spoil(runs[0]) or runs[0]
    status, out, err = compare(capsys, runs[1], bad, "--out", tmp_path / "c.png")
    assert (status, out, err.count("\n")) == (2, "", 1), err
    for word in words:
        assert word in err
    assert not (tmp_path / "c.png").exists()


def test_wrong_arguments(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, word in (
        ((), "RUN"),
        ((runs[0], runs[0]), "given twice"),
        ((runs[0], runs[0] / ".." / "a"), "given twice"),
        ((*runs, "--out", tmp_path / "c.jpg"), "only .png"),
        ((*runs, "--out", tmp_path / "none" / "c.png"), "no folder"),
        ((runs[0] / "config.json",), "holds no run"),
    ):
        status, out, err = compare(capsys, *arguments)
        assert (status, out, err.count("\n")) == (2, "", 1), err
        assert word in err
