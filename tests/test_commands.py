"""The command lines, run as a user runs them: a whole small run, and one line with status 2 for each mistake."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinymnv1 import train
from tinymnv1.checkpoint import save_checkpoint
from tinymnv1.cli import run_command
from tinymnv1.data import read_image
from tinymnv1.errors import ConfigError
from tinymnv1.recipes import TrainConfig
from tinymnv1.runs import check_run_folder, load_trained
from tinymnv1.trainer import Interrupted, Position

SMALL = ("--limit", "60", "--epochs", "1", "--batch-size", "20")


def command(name, *arguments, cwd, **options):
    return subprocess.run(
        [sys.executable, "-m", f"tinymnv1.{name}", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """A folder of two easy classes, small enough to train on in a moment."""
    folder = tmp_path_factory.mktemp("pets")
    rng = np.random.default_rng(0)
    for name, base in (("dark", 30), ("light", 200)):
        (folder / name).mkdir()
        for i in range(30):
            pixels = rng.integers(base, base + 40, (12, 12, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def run(pets, tmp_path_factory):
    """A finished run on that folder: (its folder, what training printed)."""
    out = tmp_path_factory.mktemp("run") / "pets"
    result = command(
        *("train", "--data", "folder", "--data-dir", pets, "--resolution", 16, "--out", out),
        *("--epochs", 3, "--batch-size", 16, "--lr", 0.05),
        cwd=out.parent,
    )
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def one_line(result, *words):
    """Status 2 and one line on stderr that holds the words, nothing else."""
    assert result.returncode == 2, result.stdout + result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert str(word) in lines[0]


def test_a_run_prints_its_epochs_and_leaves_its_files(run):
    out, printed = run
    assert {p.name for p in out.iterdir()} >= {
        "config.json",
        "metrics.csv",
        "last.safetensors",
        "best.safetensors",
        "curves.png",
        "confusion.png",
        "predictions.png",
    }
    assert "Epoch [3/3], Loss: " in printed
    assert "Accuracy of the model on the test images: " in printed
    for name in ("curves.png", "confusion.png", "predictions.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 300
            assert len(picture.convert("L").getcolors()) > 20, "a blank picture"


def test_the_accuracy_is_said_even_if_the_pictures_cannot_be_drawn(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run[0], copy)
    (copy / "curves.png").unlink()
    (copy / "curves.png").mkdir()
    result = command("train", "--resume", copy, cwd=tmp_path)
    one_line(result, "curves.png")
    assert "Accuracy of the model on the test images: " in result.stdout


def test_what_says_little_is_noted(pets, tmp_path):
    """A class without a test image, and a setting for half of an epoch."""
    shutil.copytree(pets, tmp_path / "pets")
    (tmp_path / "pets" / "rare").mkdir()
    for i in range(2):
        shutil.copy(pets / "dark" / "00.png", tmp_path / "pets" / "rare" / f"{i}.png")
    data = ("--data", "folder", "--data-dir", "pets", "--resolution", 12)
    result = command("train", *data, "--epochs", 1, "--early-resolution", 8, "--out", "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "the accuracy says nothing about classes without a test image: rare\n" in result.stdout
    assert "--early-resolution is for the first half of the epochs: one epoch has none" in result.stdout
    assert re.search(r"\n +rare +no image\n", command("evaluate", "run", cwd=tmp_path).stdout)


def test_evaluate_repeats_the_best_accuracy(run):
    out, printed = run
    result = command("evaluate", out, cwd=out.parent)
    assert result.returncode == 0, result.stderr
    best = printed.split("best epoch")[1].split("with ")[1].split(" %")[0]
    assert f"accuracy {best} %" in result.stdout
    right = [float(line.split()[1]) for line in result.stdout.splitlines() if line.endswith(" %  of 6")]
    assert len(right) == 2, "a line for each class, with its six test images"
    assert sum(right) / 2 == pytest.approx(float(best), abs=0.02)
    assert (out / "evaluation.png").exists()


def test_predict_names_the_classes(run, pets):
    out, _ = run
    picture = out.parent / "told.png"
    result = command(
        "predict", out, pets / "dark" / "04.png", pets / "light" / "04.png", "--picture", picture, cwd=out.parent
    )
    assert result.returncode == 0, result.stderr
    alone, trained = result.stdout.splitlines()[:2], load_trained(out)
    for name, line in zip(("dark", "light"), alone, strict=True):
        path, told = line.rsplit(": ", 1)
        assert path == str(pets / name / "04.png")
        (first, most), (second, least) = (part.removesuffix(" %").split() for part in told.split(", "))
        logits = trained.model.forward(trained.preprocess(read_image(path, 16)[None]))[0]
        assert [first, second] == [trained.classes[k] for k in np.argsort(-logits)], "the most likely class comes first"
        assert float(most) == pytest.approx(100 / (1 + np.exp(-abs(logits[0] - logits[1]))), abs=0.06)
        assert float(most) + float(least) == pytest.approx(100, abs=0.11)
    assert picture.exists()
    many = [pets / name / f"{i:02}.png" for name in ("dark", "light") for i in range(30)]
    result = command("predict", out, *many, "--picture", picture, cwd=out.parent)
    assert result.returncode == 0, result.stderr
    *told, last = result.stdout.splitlines()
    assert [line.split(":")[0] for line in told] == list(map(str, many))
    assert [told[4], told[34]] == alone, "an image's result does not depend on the others"
    assert last == f"picture of the first 20: {picture}"


def test_names_that_the_terminal_or_a_formula_cannot_show(run, pets, tmp_path):
    """A terminal that knows only ASCII, and dollar signs, between which matplotlib would expect a formula."""
    out, _ = run
    odd = tmp_path / "caf\u00e9 $$ \u732b.png"
    odd.write_bytes((pets / "dark" / "04.png").read_bytes())
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    result = command("predict", out, odd, "--picture", tmp_path / "p.png", cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(str(tmp_path / "caf\\xe9 $$ \\u732b.png: "))


def test_an_interrupted_run_resumes_to_the_same_metrics(pets, tmp_path):
    """Ctrl-C in the middle: it saves, says how to go on, and ends with the rows of an uninterrupted run."""
    arguments = (
        "--data",
        "folder",
        "--data-dir",
        str(pets),
        "--resolution",
        "16",
        "--epochs",
        "120",
        "--batch-size",
        "8",
    )
    one = ("--threads", "1")  # tiny steps: a second thread would mostly wait
    whole = command("train", *arguments, *one, "--out", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    broken = subprocess.Popen(
        [sys.executable, "-m", "tinymnv1.train", *arguments, *one, "--out", "broken"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in broken.stdout:
            if line.startswith("Epoch [2/"):
                break
        time.sleep(0.1)
        broken.send_signal(signal.SIGINT)
        _, stderr = broken.communicate(timeout=60)
    finally:
        broken.kill()
    assert broken.returncode == 130
    assert "--resume broken" in stderr
    assert "Traceback" not in stderr
    resumed = command("train", "--resume", "broken", *one, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr

    def rows(name):
        lines = (tmp_path / name / "metrics.csv").read_text().splitlines()
        return [line.split(",")[:7] for line in lines]  # without the two columns of times

    assert len(rows("whole")) == 121
    assert rows("whole") == rows("broken")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--epochs", "-1"), ("--epochs", "at least 1")),
        (("--epochs", "many"), ("--epochs", "many")),
        (("--lr", "nan"), ("--lr",)),
        (("--momentum", "1"), ("--momentum",)),
        (("--width", "0"), ("--width",)),
        (("--batch-size", "0"), ("--batch-size",)),
        (("--resolution", "4000000000"), ("--resolution", "4096")),
        (("--data", "mnist"), ("--data", "mnist")),
        (("--data", "folder"), ("--data-dir",)),
        (("--data", "folder", "--data-dir", "nowhere"), ("nowhere", "no such folder")),
        (("--data", "cifar10", "--data-dir", "nowhere"), ("nowhere", "no such folder")),
        (("--data", "cifar10", "--data-dir", "."), ("neither",)),
        (("--data-dir", "."), ("--data-dir",)),
        (("--recipe", "best"), ("--recipe",)),
        (("--resume", "nowhere"), ("nowhere", "no run to resume")),
        (("--resume", "nowhere", "--out", "x"), ("--out",)),
        (("--out", "taken/run"), ("taken", "is a file")),
        (("--out", ""), ("--out", "the path is empty")),
        (("--data", "cifar10", "--data-dir", ""), ("--data-dir", "the path is empty")),
        (("--no-nesterov",), ("--no-nesterov", "adamw")),
        (("--out", "x" * 300), ("xxx", "too long")),
        (("--threads", "0"), ("--threads",)),
        (("--threads", "1", "--backend", "numpy"), ("--threads", "--backend numpy")),
        (("--augment", "none", "--recipe", "cifar10-fast"), ("--alternate-flip", "--no-alternate-flip")),
        (("--unknown",), ("--unknown", "--help")),
        (("--resolution", "1", "--batch-size", "1", "--limit", "4"), ("one value per channel",)),
    ],
    ids=lambda value: " ".join(value) if value and str(value[0]).startswith("--") else "",
)
def test_a_mistake_gives_one_line_and_leaves_nothing(arguments, words, tmp_path):
    (tmp_path / "taken").write_text("a file")
    one_line(command("train", *arguments, cwd=tmp_path), *words)
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("train", ("--data", "folder", "--data-dir", "loop")),
        ("train", ("--resume", "loop")),
        ("compare", ("loop",)),
        ("predict", ("loop", "loop")),
    ],
)
def test_a_link_that_leads_to_itself_is_one_line(name, arguments, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    one_line(command(name, *arguments, cwd=tmp_path), "loop")
    assert [p.name for p in tmp_path.iterdir()] == ["loop"]


def test_a_run_without_a_name_is_numbered_and_resumes_from_anywhere(pets, tmp_path):
    """Its data was given by a relative path, which is kept as a whole one."""
    arguments = ("--data", "folder", "--data-dir", pets.name, "--resolution", 8, "--epochs", 1, "--batch-size", 8)
    for number in (1, 2):
        assert command("train", *arguments, cwd=pets.parent).returncode == 0
        assert (pets.parent / "runs" / f"folder-{number}" / "best.safetensors").exists()
    resumed = command("train", "--resume", pets.parent / "runs" / "folder-1", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "complete already" in resumed.stdout


def test_a_run_in_the_folder_runs_is_in_nobodys_way(run, pets, tmp_path):
    """`--out runs`, once: later runs without --out go into folders in there, and leave it as it is."""
    shutil.copytree(run[0], tmp_path / "runs")
    before = {p.name: p.read_bytes() for p in (tmp_path / "runs").iterdir()}
    arguments = ("--data", "folder", "--data-dir", pets, "--resolution", 8, "--epochs", 1, "--batch-size", 8)
    result = command("train", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "runs" / "folder-1" / "best.safetensors").exists()
    assert {p.name: p.read_bytes() for p in (tmp_path / "runs").iterdir() if p.is_file()} == before


def test_a_folder_with_a_run_is_not_overwritten(run):
    out, _ = run
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    one_line(command("train", "--out", out, cwd=out.parent), out, "--resume")
    one_line(command("train", "--resume", out, "--lr", "0.3", cwd=out.parent), "--lr 0.05, not 0.3")
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


@pytest.mark.parametrize("name", ["best.safetensors", "config.json", "curves.png"])
def test_a_new_run_overwrites_nothing(name, tmp_path):
    """Neither what is left of an earlier run nor a file of somebody else's."""
    (tmp_path / name).write_text("precious")
    one_line(command("train", *SMALL, "--out", ".", cwd=tmp_path), name, "would be overwritten", "--out")
    assert (tmp_path / name).read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_an_unwritable_output_folder(tmp_path, monkeypatch):
    """Permissions do not stop the superuser, so the answer of the system is a given one."""
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "locked")
    (tmp_path / "locked").mkdir()
    with pytest.raises(ConfigError, match="locked cannot be written to"):
        check_run_folder(tmp_path / "locked" / "run")
    check_run_folder(tmp_path / "other" / "run")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which nobody can create anything")
def test_an_output_folder_that_cannot_be_created(tmp_path):
    one_line(command("train", *SMALL, "--out", "/proc/self/run", cwd=tmp_path), "/proc/self/run", "cannot be")


def test_damaged_and_foreign_inputs(run, pets, tmp_path):
    out, _ = run
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((out / "best.safetensors").read_bytes()[:5000])
    weights = tmp_path / "weights.safetensors"
    save_checkpoint(weights, {"w": np.zeros(3)}, {})  # it takes any arrays and any meta
    broken = tmp_path / "broken.png"
    broken.write_bytes((pets / "dark" / "00.png").read_bytes()[:60])
    other = tmp_path / "other"
    for name in ("a", "b"):
        (other / name).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (4, 4)).save(other / name / f"{i}.png")
    image = pets / "dark" / "00.png"
    for name in ("evaluate", "predict"):
        extra = [image] if name == "predict" else []
        one_line(command(name, tmp_path / "nowhere", *extra, cwd=tmp_path), "nowhere")
        one_line(command(name, cut, *extra, cwd=tmp_path), "cut.safetensors", "damaged")
        one_line(command(name, weights, *extra, cwd=tmp_path), "weights.safetensors", "not of a run")
        one_line(command(name, pets, *extra, "--checkpoint", "last", cwd=tmp_path), "last.safetensors", "no such")
    one_line(command("predict", out, broken, cwd=tmp_path), "broken.png", "cannot be decoded")
    one_line(command("predict", out, tmp_path / "none.png", cwd=tmp_path), "none.png", "no such file")
    one_line(command("predict", out, image, "--picture", tmp_path / "no" / "x.png", cwd=tmp_path), "could not be")
    one_line(command("predict", out, image, "--picture", image, cwd=tmp_path), "overwritten")
    one_line(command("predict", out, tmp_path, cwd=tmp_path), "is a folder")
    one_line(command("evaluate", out, "--picture", tmp_path / "x.abc", cwd=tmp_path), "only .png")
    assert image.read_bytes()[:4] == b"\x89PNG"
    one_line(command("evaluate", out, "--data-dir", other, cwd=tmp_path), "dark, light", "a, b")
    one_line(command("evaluate", out, "--batch-size", "0", cwd=tmp_path), "--batch-size")
    one_line(command("summary", "--width", "-1", cwd=tmp_path), "width")
    one_line(command("summary", "--resolution", "0", cwd=tmp_path), "--resolution")
    assert not list(tmp_path.glob("*.png.*"))


def test_a_damaged_data_file(tmp_path):
    """The right names, the wrong bytes: refused before anything is trained or written."""
    from tinymnv1.data import cifar10

    folder = tmp_path / cifar10.FOLDER
    folder.mkdir()
    for name in cifar10.FILES:
        (folder / name).write_bytes(bytes(cifar10.FILE_BYTES))
    arguments = ("--data", "cifar10", "--data-dir", tmp_path, "--out", "run")
    one_line(command("train", *arguments, cwd=tmp_path), "data_batch_1.bin", "damaged", "md5")
    (folder / "data_batch_1.bin").write_bytes(bytes(1000))
    one_line(command("train", *arguments, cwd=tmp_path), "data_batch_1.bin", "1,000 bytes")
    assert not (tmp_path / "run").exists()


def test_a_diverging_run_says_at_which_step(tmp_path):
    result = command("train", *SMALL, "--lr", "1e30", "--schedule", "constant", "--out", "run", cwd=tmp_path)
    one_line(result, "step", "lower --lr", "last.safetensors")
    assert (tmp_path / "run" / "last.safetensors").exists()


def test_the_seed_recipe_runs_on_a_few_images(pets, tmp_path):
    """At 224 pixels, on a folder instead of CIFAR-10, which may not be here."""
    result = command(
        *("train", "--recipe", "seed", "--data", "folder", "--data-dir", pets, "--limit", 8, "--epochs", 1),
        *("--batch-size", 4, "--width", 0.25, "--out", "run"),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert "224 pixels" in result.stdout
    assert "Epoch [1/1], Loss: " in result.stdout


@pytest.mark.parametrize("name", ["train", "evaluate", "compare", "predict", "summary"])
def test_help_explains_itself(name, tmp_path):
    result = command(name, "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert f"python -m tinymnv1.{name}" in result.stdout
    assert len(result.stdout) > 500


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [(MemoryError(), 2, "not enough memory"), (KeyboardInterrupt(), 130, "stopped"), (ConfigError("x  y"), 2, "x y")],
    ids=["memory", "Ctrl-C", "mistake"],
)
def test_what_ends_a_command_is_one_line(error, status, told, capsys):
    def main():
        raise error

    assert run_command(main) == status
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert told in lines[0]


def test_a_command_may_be_started_without_an_output(monkeypatch):
    """With `>&-` in a shell, and in Windows without a console, sys.stdout is None."""

    def main():
        print("a word")
        sys.stdout.flush()
        return 0

    monkeypatch.setattr(sys, "stdout", None)
    assert run_command(main) == 0
    sys.stdout.close()


def test_a_number_of_threads_is_the_kernels():
    import numba

    before = numba.get_num_threads()
    try:
        train._set_threads(1)
        assert numba.get_num_threads() == 1
    finally:
        numba.set_num_threads(before)


@pytest.mark.skipif(os.name != "posix", reason="a signal to oneself ends the process there")
def test_the_first_signal_asks_and_the_second_stops_at_once():
    """Handlers are there while `fit` runs, and those of before come back."""

    class Stub:
        stop_requested, total_steps, on_step, on_epoch = False, 1, None, None

        def __init__(self):
            self.config, self.position = TrainConfig(), Position()
            self.on_evaluate = None

        def fit(self):
            os.kill(os.getpid(), signal.SIGTERM)
            assert self.stop_requested
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
            raise Interrupted

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted):
        train._fit(Stub())
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
