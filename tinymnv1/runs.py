"""The folder of a run: making a new one, saving into it so that nothing can be lost, getting the trained model out.

`last.safetensors` is the newest checkpoint and `previous.safetensors` the one before it. A new one is whole and on the
disk before either of the two changes its name, so at every moment at least one of them is good.
"""

import contextlib
import csv
import io
import json
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinymnv1.checkpoint import load_checkpoint, save_checkpoint, with_prefix
from tinymnv1.data import Preprocessing
from tinymnv1.errors import CheckpointError, ConfigError
from tinymnv1.files import remove_temporary_files, write_atomically
from tinymnv1.model import MobileNetV1
from tinymnv1.ops.window import Array
from tinymnv1.recipes import TrainConfig

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LAST, PREVIOUS, BEST = "last.safetensors", "previous.safetensors", "best.safetensors"
RUN_FILES = (LAST, BEST, "config.json", "metrics.csv", "curves.png", "confusion.png", "predictions.png")
"""What a run writes into its folder; the last checkpoint becomes PREVIOUS by a change of name."""


@dataclass(frozen=True)
class TrainedModel:
    """What a checkpoint gives to someone who only wants to use the model. data: its run's `Dataset.fingerprint`."""

    model: MobileNetV1
    preprocess: Preprocessing
    classes: tuple[str, ...]
    config: TrainConfig
    epoch: int
    path: Path
    data: dict[str, str]


def load_trained(run: Path, which: str | None = None) -> TrainedModel:
    """The model of a run's folder, or of a checkpoint file.

    which: of a folder's checkpoints, "last" or "best", which None means too.
    Raises CheckpointError if there is none, if it is damaged, or if `which` has nothing to choose from.
    """
    if which and run.is_file():
        raise CheckpointError(f"{run}: is one checkpoint; give its folder, {run.parent}, for --checkpoint {which}")
    path = run / f"{which or 'best'}.safetensors" if run.is_dir() else run
    if which == "last" and not path.exists() and (run / PREVIOUS).exists():
        path = run / PREVIOUS  # the run was killed between the two moves of its last write
    if not path.exists():
        if has_run(run):
            raise CheckpointError(
                f"{path}: not there: the run was not evaluated so far, or it was deleted; use --checkpoint last"
            )
        raise CheckpointError(f"{path}: no such checkpoint; give a folder that tinymnv1.train wrote, such as runs/NAME")
    arrays, meta = load_checkpoint(path)
    config = saved_config(meta, path)
    model = MobileNetV1(**meta["model"])
    model.load_state_dict(with_prefix(arrays, "model."))
    return TrainedModel(
        model,
        _preprocessing(meta),
        tuple(meta["classes"]),
        config,
        meta["position"]["epoch"],
        path,
        meta.get("data", {}),
    )


def _preprocessing(meta: dict[str, Any]) -> Preprocessing:
    saved = meta["preprocessing"]
    return Preprocessing(saved["resolution"], tuple(saved["mean"]), tuple(saved["std"]))


def saved_config(meta: dict[str, Any], path: Path) -> TrainConfig:
    """The settings in a checkpoint's meta. Raises CheckpointError if this version does not know one of them."""
    try:
        return TrainConfig(**meta["config"])
    except KeyError as error:
        raise CheckpointError(f"{path}: is a checkpoint, but not of a run: it has no {error}") from error
    except (TypeError, ConfigError) as error:
        raise CheckpointError(f"{path}: written by another version of tinymnv1 ({error}); use that one") from error


@dataclass(frozen=True)
class SavedRun:
    """The newest good checkpoint of a run, and what is wrong with `last.safetensors` if this is the one before it."""

    folder: Path
    arrays: dict[str, Array]
    meta: dict[str, Any]
    config: TrainConfig
    damage: str = ""

    def fall_back(self) -> str:
        """Put the checkpoint before the damaged one in its place; returns a line that says so, for the user."""
        try:
            (self.folder / PREVIOUS).replace(self.folder / LAST)
        except OSError as error:
            raise CheckpointError(f"{self.folder / LAST}: could not be written ({error.strerror})") from error
        return f"{self.damage}; going on from the checkpoint before it, step {self.meta['position']['step']}"


def load_run(folder: Path) -> SavedRun:
    """The checkpoint to resume a run from: the last, or if that is damaged or missing the one before it.

    Changes nothing. Raises CheckpointError if there is no run, if both checkpoints are damaged, if one is there but
    cannot be read, or if config.json contradicts them, which happens when it was edited or when a file is another
    run's.
    """
    if folder.is_file():
        raise CheckpointError(f"{folder}: is a file; give --resume the folder that it lies in, {folder.parent}")
    damages = []
    for name in (LAST, PREVIOUS):
        path = folder / name
        try:
            arrays, meta = load_checkpoint(path)
        except CheckpointError as error:
            if isinstance(error.__cause__, OSError) and path.exists():
                raise  # it cannot be read now, but may be good: do not put an older one in its place
            damages.append(str(error) if path.exists() else f"{path}: missing")
            continue
        config = saved_config(meta, path)
        _check_config_file(folder / "config.json", config, path)
        return SavedRun(folder, arrays, meta, config, "; ".join(damages))
    if not has_run(folder):
        raise CheckpointError(f"{folder}: holds no run to resume (there is no {LAST})")
    raise CheckpointError(f"{'; '.join(damages)}; no checkpoint is left to resume from, start a new run")


def check_same_settings(folder: Path, before: TrainConfig, config: TrainConfig) -> None:
    """Raise CheckpointError, which says what differs, unless a run's settings are still the same.

    Its data may lie in another folder than before.
    """
    for key, value in asdict(config).items():
        if key != "data_dir" and value != (then := getattr(before, key)):
            flag = key.replace("_", "-")
            told = f"--{flag} {then}, not {value}"
            if isinstance(value, bool):
                told = f"--{flag}, not --no-{flag}" if then else f"--no-{flag}, not --{flag}"
            raise CheckpointError(f"{folder}: was trained with {told}; resume without that option, or start a new run")


def check_same_run(
    folder: Path, meta: dict[str, Any], config: TrainConfig, data: dict[str, str], preprocess: Preprocessing
) -> None:
    """Raise CheckpointError, which says what differs, unless meta is of a run with these settings and this data.

    data: its `Dataset.fingerprint()`, of the images that the run uses.  preprocess: its mean and standard deviation may
    be of more images than those (`--limit`, `--validation`).
    """
    check_same_settings(folder, saved_config(meta, folder / LAST), config)
    then = meta.get("data", {})
    if changed := [part for part in data if data[part] != then.get(part)]:
        raise CheckpointError(
            f"{folder}: the data set has changed since the run began, in its {', '.join(changed)}: {changed[0]} were"
            f" {then.get(changed[0], 'unknown')}, now are {data[changed[0]]}; put the old data back, or start a new run"
        )
    before = _preprocessing(meta)
    if not np.allclose(before.mean + before.std, preprocess.mean + preprocess.std, 1e-6, 0):
        raise CheckpointError(
            f"{folder}: the data set has changed since the run began: its pixels have another mean or standard"
            " deviation; put the old data back, or start a new run"
        )


def _check_config_file(path: Path, config: TrainConfig, checkpoint: Path) -> None:
    try:
        written = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return  # it is for people; the run writes it again
    for key, value in json.loads(json.dumps(asdict(config))).items():
        if key != "data_dir" and isinstance(written, dict) and written.get(key, value) != value:
            raise CheckpointError(
                f"{path}: says {key} {written[key]}, but {checkpoint.name} was trained with {value}: a run keeps its"
                " settings, so put back the one that was changed, or start a new run"
            )


def save_run(folder: Path, name: str, arrays: dict[str, Array], meta: dict[str, Any]) -> None:
    """Write a checkpoint of the run as it stands; as LAST, it makes the one so far PREVIOUS.

    Raises CheckpointError, which says how to go on, if it cannot be written. If somebody removed the folder, it is made
    again first, with this state as LAST, so that the run can be resumed.
    """
    try:
        save_checkpoint(folder / name, arrays, meta, folder / PREVIOUS if name == LAST else None)
    except CheckpointError as error:
        if folder.is_dir():
            raise CheckpointError(f"{error}; {_way_on(folder)}") from error
        new_run_folder(folder)
        save_checkpoint(folder / LAST, arrays, meta)
        raise CheckpointError(
            f"{folder}: was removed while the run was going on; the run is saved there again as it stands, without its"
            f" best epoch so far; {_way_on(folder)}"
        ) from error


def write_run_file(path: Path, content: bytes) -> None:
    """Write one of the small files of a run. Raises CheckpointError, which says how to go on, if that fails."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise CheckpointError(f"{path}: could not be written ({error.strerror}); {_way_on(path.parent)}") from error


def write_metrics(path: Path, header: dict[str, str], rows: Sequence[dict[str, float]]) -> None:
    """Write a CSV file. header: each key of the rows, and the title of its column. Raises as `write_run_file` does."""
    text = io.StringIO()
    writer = csv.DictWriter(text, tuple(header), lineterminator="\n")
    writer.writerows([header, *rows])
    write_run_file(path, text.getvalue().encode())


def _way_on(folder: Path) -> str:
    if has_run(folder):
        return f"the last good checkpoint is there: go on with {resume_command(folder)}"
    return "nothing of the run is saved yet: start it again"


def resume_command(folder: Path) -> str:
    """What to type to go on with a run, whatever the folder is called."""
    return f"python -m tinymnv1.train --resume {shlex.quote(str(folder))}"


def has_run(folder: Path) -> bool:
    """Does the folder hold a checkpoint, good or damaged?"""
    return (folder / LAST).exists() or (folder / PREVIOUS).exists()


def clear_away(folder: Path) -> None:
    """Delete the temporary files of a run that was killed as it wrote. Raises CheckpointError if that fails."""
    try:
        remove_temporary_files(folder, RUN_FILES)
    except OSError as error:
        raise CheckpointError(f"{folder}: temporary files cannot be deleted ({error.strerror})") from error


def new_run_folder(out: Path) -> Path:
    """Create the folder of a new run. Raises ConfigError if it holds a run already or cannot be written."""
    check_run_folder(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be created ({error.strerror}); choose another --out") from error
    return out


def check_run_folder(out: Path) -> None:
    """Raise ConfigError if a new run cannot go to `out`, or would overwrite something. Creates nothing."""
    if has_run(out):
        raise ConfigError(
            f"{out}: holds a run already; continue it with --resume {shlex.quote(str(out))}, or choose another --out"
        )
    if taken := [name for name in RUN_FILES if (out / name).exists()]:
        raise ConfigError(f"{out / taken[0]}: is there already and would be overwritten; choose another --out")
    parent = out
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise ConfigError(f"{out}: {parent} is a file, not a folder; choose another --out")
    if not os.access(parent, os.W_OK):
        raise ConfigError(f"{out}: {parent} cannot be written to; choose another --out")


def next_run_folder(parent: Path, stem: str) -> Path:
    """The first of parent/stem-1, parent/stem-2, ... that does not exist."""
    number = 1
    while os.path.lexists(parent / f"{stem}-{number}"):  # a link to nowhere is taken, too
        number += 1
    return parent / f"{stem}-{number}"


def claim_next_folder(parent: Path, stem: str) -> Path:
    """Create `next_run_folder` for this process alone: of several that start together, each gets one of its own.

    Raises ConfigError if it cannot be created.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)  # it may be a run's folder itself: nothing in it is overwritten
    except OSError as error:
        raise ConfigError(f"{parent}: cannot be created ({error.strerror}); choose another --out") from error
    while True:
        folder = next_run_folder(parent, stem)
        try:
            folder.mkdir()
        except FileExistsError:  # another process was faster
            continue
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be created ({error.strerror}); choose another --out") from error
        return folder


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within this context no other process can train the run in `folder`. Raises ConfigError if one does already.

    It is a lock on the folder itself, which the system takes back when the process ends, however it ends. Where there
    are no such locks (Windows, some network drives) nothing is locked.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{folder}: another process is training this run; wait for it, or stop it") from error
        except OSError:
            pass
        yield
    finally:
        os.close(handle)
