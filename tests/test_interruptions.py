"""A run cannot be lost: stopped, killed, out of space, damaged or removed, it says so in one line and can go on.

All through the command line. Where a run goes on, it must end as the uninterrupted run does, bit for bit.
"""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from PIL import Image

from benchmarks import crashes
from benchmarks.crashes import finish, result, start, write_images
from benchmarks.harness import BenchmarkError
from tinymnv1 import runs, train, trainer
from tinymnv1.checkpoint import load_checkpoint, save_checkpoint
from tinymnv1.cli import run_command
from tinymnv1.errors import ConfigError

ROOT = Path(__file__).parents[1]
SETTINGS = (
    *("--data", "folder", "--resolution", "32", "--augment", "crop-flip", "--dropout", "0.2", "--ema-decay", "0.9"),
    *("--epochs", "2", "--batch-size", "16"),  # ten steps an epoch
)
OFTEN = ("--checkpoint-minutes", "0")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "images"
    write_images(folder)
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No pictures, which take longer than the training; one thread, since in tiny steps a second would mostly wait."""
    monkeypatch.setattr(train, "_conclude", lambda *_: None)
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(threads)


@pytest.fixture(scope="module")
def expected(images, tmp_path_factory):
    """What the uninterrupted run comes to."""
    run = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_conclude", lambda *_: None)
        assert command(*new(images, run)) == 0
    return result(run)


def command(*arguments):
    """The exit status of `python -m tinymnv1.train`."""
    return run_command(lambda: train.main([str(a) for a in arguments]))


def new(images, run):
    return (*SETTINGS, *OFTEN, "--data-dir", images, "--out", run)


def at_step(monkeypatch, step, do):
    """Call `do` once, right after that step."""
    progress = train.Progress.step

    def hooked(self, trainer, loss):
        progress(self, trainer, loss)
        if trainer.position.step == step:
            do()

    monkeypatch.setattr(train.Progress, "step", hooked)


def one_line(capsys, *words):
    """One line on stderr that holds the words, nothing else."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    for word in words:
        assert str(word) in lines[0]


def position(run, name="last.safetensors"):
    return load_checkpoint(run / name)[1]["position"]


@pytest.fixture
def stopped(images, tmp_path, monkeypatch, capsys):
    """A run stopped with SIGTERM in the middle of its second epoch."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_step(patch, 14, lambda: signal.raise_signal(signal.SIGTERM))
        assert command(*new(images, run)) == 130
    one_line(capsys, "stopped and saved", f"python -m tinymnv1.train --resume {run}")
    assert (position(run)["step"], position(run, "previous.safetensors")["step"]) == (14, 13)
    return run


def test_a_run_stopped_within_an_epoch_goes_on(stopped, expected):
    assert command("--resume", stopped) == 0
    assert result(stopped) == expected


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_run_stopped_during_the_test_goes_on(name, images, expected, tmp_path, monkeypatch, capsys):
    """The test set may take longer than whoever sent SIGTERM is willing to wait."""
    run = tmp_path / "run"
    after_batch = trainer.Trainer._after_test_batch

    def hooked(self, count):
        signal.raise_signal(getattr(signal, name))
        after_batch(self, count)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_after_test_batch", hooked)
        assert command(*new(images, run)) == 130
    one_line(capsys, "--resume")
    assert (position(run)["epoch"], position(run)["step"]) == (0, 10)
    assert command("--resume", run) == 0
    assert result(run) == expected


def cut_short(path):
    path.write_bytes(path.read_bytes()[:5000])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def make_foreign(path):
    from safetensors.numpy import save_file

    save_file({"features.0.weight": np.zeros((3, 3))}, path)


DAMAGES = {
    "cut short": (cut_short, "damaged"),
    "empty": (lambda path: path.write_bytes(b""), "damaged"),
    "a flipped bit": (flip_a_bit, "checksum"),
    "foreign": (make_foreign, "not a checkpoint of tinymnv1"),
    "missing": (Path.unlink, "missing"),  # as after a kill between the two moves
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(damage, stopped, expected, capsys):
    spoil, word = DAMAGES[damage]
    spoil(stopped / "last.safetensors")
    assert command("--resume", stopped) == 0
    one_line(capsys, "last.safetensors", word, "going on from the checkpoint before it, step 13")
    assert result(stopped) == expected


def test_falling_back_never_puts_the_good_checkpoint_at_risk(stopped, images, monkeypatch, capsys):
    """The damaged file must not take the place of the good one when the next checkpoint is written."""
    cut_short(stopped / "last.safetensors")
    at_step(monkeypatch, 14, lambda: signal.raise_signal(signal.SIGTERM))
    assert command("--resume", stopped) == 130
    assert (position(stopped)["step"], position(stopped, "previous.safetensors")["step"]) == (14, 13)


def test_a_checkpoint_that_cannot_be_read_now_keeps_its_place(stopped, expected, monkeypatch, capsys):
    """A network drive that fails for a moment is not damage: the newest checkpoint must not be given up for it."""
    read, last = Path.read_bytes, stopped / "last.safetensors"

    def fail(path):
        if path == last:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        assert command("--resume", stopped) == 2
    one_line(capsys, "error: ", last, os.strerror(errno.EIO))
    assert position(stopped)["step"] == 14
    assert command("--resume", stopped) == 0
    assert result(stopped) == expected


def test_the_model_of_a_run_whose_last_checkpoint_is_missing(stopped):
    (stopped / "last.safetensors").unlink()
    assert runs.load_trained(stopped, "last").path == stopped / "previous.safetensors"


@pytest.mark.parametrize("damage", DAMAGES)
def test_two_damaged_checkpoints_are_one_line(damage, stopped, capsys):
    spoil, word = DAMAGES[damage]
    spoil(stopped / "last.safetensors")
    cut_short(stopped / "previous.safetensors")
    before = {p.name: p.read_bytes() for p in stopped.iterdir()}
    assert command("--resume", stopped) == 2
    one_line(capsys, "error: ", "last.safetensors", word, "previous.safetensors", "start a new run")
    assert {p.name: p.read_bytes() for p in stopped.iterdir()} == before


def test_a_run_whose_last_checkpoint_is_missing_is_not_overwritten(stopped, images, capsys):
    (stopped / "last.safetensors").unlink()
    assert command(*new(images, stopped)) == 2
    one_line(capsys, "holds a run already", "--resume")


def test_temporary_files_of_a_killed_write_are_cleared_away(stopped, expected):
    (stopped / ".last.safetensors.k3j_2x9q.part").write_bytes(b"half")
    own = [stopped / name for name in ("notes.txt", ".notes.part")]
    for file in own:
        file.write_text("somebody's own")
    assert command("--resume", stopped) == 0
    for file in own:
        file.unlink()  # fails if it was cleared away, too
    assert result(stopped) == expected


def test_metrics_that_a_kill_left_behind_are_written_again(stopped, expected):
    """A run killed between the last epoch's checkpoint and its row would otherwise stay without that row."""
    assert command("--resume", stopped) == 0
    header = (stopped / "metrics.csv").read_text().splitlines()[0]
    (stopped / "metrics.csv").write_text(header + "\n")
    assert command("--resume", stopped) == 0
    assert result(stopped) == expected


def test_resuming_a_complete_run_changes_nothing(images, tmp_path, capsys):
    run = tmp_path / "run"
    assert command(*new(images, run)) == 0
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    assert command("--resume", run) == 0
    assert "complete already" in capsys.readouterr().out
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


def refused(stopped, capsys, *words, arguments=()):
    """Resuming is refused with these words, and the run is as it was."""
    before = {p.name: p.read_bytes() for p in stopped.iterdir()}
    assert command("--resume", stopped, *arguments) == 2
    one_line(capsys, "error: ", *words)
    assert {p.name: p.read_bytes() for p in stopped.iterdir()} == before


def test_a_config_file_that_cannot_be_read_is_written_again(stopped, expected):
    """It is for people: the checkpoint holds the settings."""
    for damage in ("", "{", "[" * 100_000, "[]"):
        (stopped / "config.json").write_text(damage)
        assert runs.load_run(stopped).config.epochs == 2
    assert command("--resume", stopped) == 0
    assert result(stopped) == expected


def test_the_bar_of_a_complete_run_is_in_its_last_epoch():
    at, config = SimpleNamespace(epoch=1, step=10), SimpleNamespace(epochs=2)
    bar = train.Progress(SimpleNamespace(position=at, config=config, total_steps=20))
    assert bar._epoch() == "epoch 2/2"
    at.epoch = 2
    assert bar._epoch() == "epoch 2/2"


def test_changed_data_is_refused_by_name(stopped, images, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(images, other)
    at_other = {"arguments": ("--data-dir", other)}
    picture = next(p for p in sorted(other.rglob("*.png")) if p.parts[-3] == "test")
    Image.new("RGB", (32, 32)).save(picture)
    refused(stopped, capsys, "data set has changed", "in its test images: ", "40x32x32x3", **at_other)
    picture.unlink()
    refused(stopped, capsys, "in its test images, test labels: ", "40x32x32x3", "39x32x32x3", **at_other)
    for part in ("train", "test"):
        (other / part / "disc").rename(other / part / "disk")
    refused(stopped, capsys, "in its classes, test images", **at_other)


def test_data_that_has_only_moved_is_taken(stopped, images, expected, tmp_path):
    other = tmp_path / "moved"
    shutil.copytree(images, other)
    assert command("--resume", stopped, "--data-dir", other) == 0
    assert result(stopped) == expected


def test_a_checkpoint_is_not_a_folder(stopped, capsys):
    assert command("--resume", stopped / "last.safetensors") == 2
    one_line(capsys, f"is a file; give --resume the folder that it lies in, {stopped}")


def test_the_command_to_go_on_with_can_be_pasted():
    assert runs.resume_command(Path("my runs/1")) == "python -m tinymnv1.train --resume 'my runs/1'"


def test_a_changed_configuration_is_refused_by_name(stopped, tmp_path, capsys):
    refused(stopped, capsys, "--weight-decay 0.0005, not 0.1", arguments=("--weight-decay", "0.1"))
    refused(stopped, capsys, "--normalise, not --no-normalise", arguments=("--no-normalise",))
    config = stopped / "config.json"
    original = config.read_text()
    config.write_text(original.replace('"epochs": 2', '"epochs": 3'))
    refused(stopped, capsys, "config.json: says epochs 3, but last.safetensors was trained with 2")
    config.write_text(original)
    arrays, meta = load_checkpoint(stopped / "last.safetensors")
    save_checkpoint(stopped / "last.safetensors", arrays, meta | {"config": meta["config"] | {"seed": 7}})
    refused(stopped, capsys, "config.json: says seed 0, but last.safetensors was trained with 7")  # another run's file
    save_checkpoint(stopped / "last.safetensors", arrays, meta | {"config": meta["config"] | {"swirl": 1}})
    refused(stopped, capsys, "another version of tinymnv1", "swirl")


def test_other_settings_are_refused_before_their_data_is_looked_for(stopped, capsys):
    """Otherwise CIFAR-10 would be downloaded first."""
    refused(stopped, capsys, "--data folder, not cifar10", arguments=("--data", "cifar10", "--data-dir", "nowhere"))


@pytest.mark.skipif(runs.fcntl is None, reason="this system has no locks on folders")
def test_one_process_at_a_time_trains_a_run(stopped, expected, images, tmp_path, capsys):
    with runs.alone(stopped):
        refused(stopped, capsys, stopped, "another process is training this run")
    assert command("--resume", stopped) == 0
    assert result(stopped) == expected
    (tmp_path / "new").mkdir()
    with runs.alone(tmp_path / "new"):
        assert command(*new(images, tmp_path / "new")) == 2
    assert "another process" in capsys.readouterr().err
    assert not list((tmp_path / "new").iterdir())


def test_runs_that_start_together_get_a_folder_each(tmp_path, monkeypatch):
    """Two have seen that runs/shapes-1 is free; one of them was faster to create it."""
    seen = iter([tmp_path / "shapes-1", tmp_path / "shapes-1", tmp_path / "shapes-2"])
    monkeypatch.setattr(runs, "next_run_folder", lambda parent, stem: next(seen))
    assert [runs.claim_next_folder(tmp_path, "shapes").name for _ in range(2)] == ["shapes-1", "shapes-2"]


def test_a_link_to_nowhere_is_no_free_folder(tmp_path):
    """The disk that it leads to is not there at the moment."""
    (tmp_path / "shapes-1").symlink_to(tmp_path / "elsewhere")
    assert runs.claim_next_folder(tmp_path, "shapes").name == "shapes-2"


@pytest.mark.parametrize("lines", [0, 1])
def test_a_run_goes_on_when_nobody_reads_what_it_prints(lines, images, tmp_path):
    """`python -m tinymnv1.train | head -1`, or a reader that has left before the first line."""
    arguments = [sys.executable, "-m", "tinymnv1.train", *new(images, tmp_path / "run")]
    process = subprocess.Popen(map(str, arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(lines):
            process.stdout.readline()
        process.stdout.close()
        assert process.wait(120) == 0, process.stderr.read()
        assert process.stderr.read() == ""
        process.stderr.close()
    finally:
        process.kill()
    assert position(tmp_path / "run")["epoch"] == 2


def full_disk(patch):
    def fail(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch.setattr(os, "fsync", fail)


def locked_folder(patch):
    def fail(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    patch.setattr(tempfile, "mkstemp", fail)


OBSTACLES = {"full disk": (full_disk, errno.ENOSPC), "locked folder": (locked_folder, errno.EACCES)}


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_a_run_that_cannot_be_written_stops_and_goes_on_later(
    obstacle, images, expected, tmp_path, monkeypatch, capsys
):
    begin, number = OBSTACLES[obstacle]
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_step(patch, 6, lambda: begin(patch))
        assert command(*new(images, run)) == 2
    one_line(capsys, "error: ", run, os.strerror(number), f"go on with python -m tinymnv1.train --resume {run}")
    assert {p.name for p in run.iterdir()} == {"config.json", "last.safetensors", "previous.safetensors"}
    assert position(run)["step"] == 5
    assert command("--resume", run) == 0
    assert result(run) == expected


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_a_run_that_cannot_even_begin_leaves_no_file(obstacle, images, tmp_path, monkeypatch, capsys):
    begin, number = OBSTACLES[obstacle]
    begin(monkeypatch)
    assert command(*new(images, tmp_path / "run")) == 2
    one_line(capsys, "error: ", os.strerror(number), "nothing of the run is saved yet")
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_log_on_a_full_disk_is_one_line():
    with Path("/dev/full").open("w") as full:
        arguments = [sys.executable, "-m", "tinymnv1.summary"]
        told = subprocess.run(arguments, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert told.returncode == 2
    assert told.stderr.splitlines() == ["error: the disk that the output goes to is full; free some space"]


@pytest.mark.parametrize("step", [6, 10])
def test_a_folder_removed_in_mid_run_is_made_again(step, images, expected, tmp_path, monkeypatch, capsys):
    """Within an epoch and at its end, where the best checkpoint is written first."""
    run = tmp_path / "deep" / "run"
    with monkeypatch.context() as patch:
        at_step(patch, step, lambda: shutil.rmtree(run.parent))
        patch.setattr(trainer.Trainer, "_stop_if_requested", lambda self: None)
        assert command(*new(images, run), "--checkpoint-minutes", 0 if step == 6 else 5) == 2
    one_line(capsys, "error: ", run, "was removed", "--resume")
    assert position(run)["step"] == step
    assert command("--resume", run) == 0
    assert result(run) == expected


def test_without_its_best_checkpoint_a_run_keeps_the_best_from_there_on(images, tmp_path, monkeypatch):
    """Otherwise a run whose folder was removed after its best epoch would end with no model to evaluate."""
    run, evaluate, accuracies = tmp_path / "run", trainer.evaluate, iter((0.9, 0.5))
    monkeypatch.setattr(trainer, "evaluate", lambda *a: replace(evaluate(*a), accuracy=next(accuracies)))
    at_step(monkeypatch, 14, (run / "best.safetensors").unlink)
    assert command(*new(images, run)) == 0
    assert position(run, "best.safetensors")["epoch"] == 2


@pytest.mark.parametrize("minutes", [5, 0])
@pytest.mark.parametrize("lr", ["1e6", "1e30"])
def test_a_diverging_run_keeps_the_last_good_checkpoint(lr, minutes, images, tmp_path, capsys):
    """Running statistics, moments or weights become infinite before the loss does: no checkpoint may hold them."""
    run = tmp_path / "run"
    assert command(*new(images, run), "--lr", lr, "--checkpoint-minutes", minutes) == 2
    cure = f"lower --lr (it is {float(lr):g}) or with --clip-norm 1;"
    one_line(capsys, "error: ", "step", cure, run / "last.safetensors")
    assert command(*new(images, tmp_path / "clipped"), "--lr", 1e30, "--clip-norm", 1) == 2
    one_line(capsys, "error: ", "step", "or a lower --clip-norm (it is 1);")
    assert {p.name for p in run.iterdir()} <= {"config.json", "last.safetensors", "previous.safetensors"}
    arrays, _ = load_checkpoint(run / "last.safetensors")
    assert all(np.isfinite(a).all() for a in arrays.values())


def test_a_checkpoint_is_due_by_time_as_well_as_by_epoch(images, tmp_path, monkeypatch):
    """A step takes 70 seconds here: due after every fifth, and the clock starts again at the epoch's own checkpoint."""
    clock, saves = [0.0], []
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: clock[0], perf_counter=time.perf_counter))
    progress, save = train.Progress.step, trainer.save_run

    def hooked(self, trainer, loss):
        progress(self, trainer, loss)
        clock[0] += 70

    def recorded(folder, name, arrays, meta):
        saves.append((name, meta["position"]["step"]))
        save(folder, name, arrays, meta)

    monkeypatch.setattr(train.Progress, "step", hooked)
    monkeypatch.setattr(trainer, "save_run", recorded)
    run = tmp_path / "run"
    assert command(*SETTINGS, "--data-dir", images, "--out", run) == 0
    assert [step for name, step in saves if name == "last.safetensors"] == [0, 5, 10, 10, 15, 20, 20]
    saves.clear()
    assert command(*SETTINGS, "--data-dir", images, "--out", tmp_path / "b", "--checkpoint-minutes", "8") == 0
    assert [step for name, step in saves if name == "last.safetensors"] == [0, 7, 10, 17, 20]
    assert command(*SETTINGS, "--data-dir", images, "--checkpoint-minutes", "nan") == 2


def test_the_same_seed_gives_the_same_bits_with_one_thread_and_with_two(images, tmp_path):
    environment = os.environ | {"NUMBA_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
    found = []
    for name, threads in (("one", 1), ("one-again", 1), ("two", 2)):
        run = tmp_path / name
        arguments = (*SETTINGS, "--data-dir", images, "--out", run, "--threads", threads)
        whole = [sys.executable, "-m", "tinymnv1.train", *map(str, arguments)]
        told = subprocess.run(whole, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert told.returncode == 0, told.stderr
        found.append(result(run))
    assert found[0] == found[1]
    assert found[0] == found[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_that_fails_while_it_is_to_be_killed_is_said_with_its_output(tmp_path):
    log = tmp_path / "log"
    with pytest.raises(BenchmarkError, match=re.escape(f"a run ended with status 2; what it printed: {log}")):
        finish(start(["--epochs", "0"], log), log)
    assert log.exists()


@pytest.mark.parametrize("arguments", [["--runs", "0"], ["--seed", "-1"]])
def test_killing_runs_begins_with_settings_that_work(arguments, monkeypatch):
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **_: pytest.fail("the work has begun"))
    with pytest.raises(ConfigError, match=f"{arguments[0]} must be at least"):
        crashes.main(arguments)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_runs_killed_at_random_moments_end_as_the_uninterrupted_one():
    """The short form of `python -m benchmarks.crashes --runs 50`."""
    told = subprocess.run(
        [sys.executable, "-m", "benchmarks.crashes", "--runs", "2"], cwd=ROOT, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert "2 of 2 end as the uninterrupted run does" in told.stdout
    assert int(told.stdout.split(" kills")[0].split()[-1]) >= 4
