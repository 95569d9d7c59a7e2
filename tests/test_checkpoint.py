"""Checkpoints: exact round trips, and a clear error for every kind of damage, down to a single bit."""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tinymnv1 import checkpoint
from tinymnv1.checkpoint import load_checkpoint, save_checkpoint, with_prefix
from tinymnv1.errors import CheckpointError
from tinymnv1.files import remove_temporary_files, write_atomically


@pytest.fixture
def saved(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "model.a": rng.normal(size=(5, 7)).astype(np.float32),
        "model.transposed": rng.normal(size=(6, 3)).astype(np.float32).T,  # not C-contiguous
        "optimizer.steps": np.array(12, np.int64),
        "optimizer.m": rng.normal(size=4),
    }
    meta = {"classes": ["größe", 'quo"ted'], "lr": 0.1, "position": {"epoch": 3}, "generator": {"state": 2**100}}
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, arrays, meta)
    return path, arrays, meta


def test_round_trip(saved):
    path, arrays, meta = saved
    loaded, loaded_meta = load_checkpoint(path)
    assert loaded_meta == meta
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(loaded[name], array)
    assert with_prefix(loaded, "optimizer.").keys() == {"steps", "m"}


def test_it_is_a_safetensors_file(saved):
    """Other tools can read it."""
    from safetensors import safe_open

    with safe_open(saved[0], "numpy") as file:
        assert set(file.keys()) == saved[1].keys()
        assert json.loads(file.metadata()["meta"])["lr"] == 0.1


def test_one_flipped_bit_anywhere_is_an_error(saved):
    path = saved[0]
    good = path.read_bytes()
    rng = np.random.default_rng(1)
    places = {*rng.integers(0, 8 * len(good), 200).tolist(), *range(0, 8 * 16)}  # and the first 16 bytes, each bit
    for place in places:
        bad = bytearray(good)
        bad[place // 8] ^= 1 << (place % 8)
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match=r"damaged|format"):
            load_checkpoint(path)


def test_a_file_cut_short_anywhere_is_an_error(saved):
    path = saved[0]
    good = path.read_bytes()
    for length in np.random.default_rng(2).integers(0, len(good), 200):
        path.write_bytes(good[:length])
        with pytest.raises(CheckpointError, match="damaged"):
            load_checkpoint(path)
    path.write_bytes(good + b"\0")
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


def test_other_files_are_refused(tmp_path):
    from safetensors.numpy import save_file

    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": np.zeros(3)}, foreign)
    with pytest.raises(CheckpointError, match="not a checkpoint of tinymnv1"):
        load_checkpoint(foreign)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / "missing.safetensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path)


def test_another_format_is_refused(tmp_path, monkeypatch):
    """Whole and with the right checksum, but written by a version that lays it out otherwise."""
    path = tmp_path / "later.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", "another")
        save_checkpoint(path, {"a": np.zeros(3)}, {})
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="format"):
        load_checkpoint(path)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(saved, monkeypatch):
    path, arrays, meta = saved
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(path, arrays, meta | {"lr": 0.2})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process that can die at a chosen moment")
def test_a_kill_at_any_moment_of_a_write_leaves_the_newest_or_the_one_before(tmp_path):
    """The process dies before the first call that touches the disk, before the second, and so on."""
    last, previous = tmp_path / "last.safetensors", tmp_path / "previous.safetensors"
    newest = set()
    for moment in range(20):
        for step in (1, 2):
            save_checkpoint(last, {"a": np.zeros(9)}, {"step": step}, previous)
        if (process := os.fork()) == 0:
            status = 1
            try:
                die_before(moment)
                save_checkpoint(last, {"a": np.zeros(9)}, {"step": 3}, previous)
                status = 0
            finally:
                os._exit(status)  # whatever happens, this process runs no further tests
        done = os.waitpid(process, 0)[1] == 0
        good = [load_checkpoint(path)[1]["step"] for path in (last, previous) if path.exists()]  # never a damaged one
        newest.add((len(good), good[0]))
        remove_temporary_files(tmp_path, [last.name])
        assert {p.name for p in tmp_path.iterdir()} <= {last.name, previous.name}
        if done:
            break
    assert done
    assert newest == {(2, 2), (1, 2), (2, 3)}  # before the two moves, between them, after them


def die_before(moment):
    """End this process, as SIGKILL would, before that call out of those that touch the disk."""
    calls = iter(range(100))

    def hooked(call):
        def f(*arguments, **options):
            if next(calls) == moment:
                os._exit(9)
            return call(*arguments, **options)

        return f

    for owner, name in ((tempfile, "mkstemp"), (os, "fsync"), (Path, "chmod"), (Path, "replace")):
        setattr(owner, name, hooked(getattr(owner, name)))


def test_write_atomically_replaces_and_keeps_ordinary_permissions(tmp_path):
    path, plain = tmp_path / "a.txt", tmp_path / "plain.txt"
    plain.write_text("x")
    path.write_text("old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode == plain.stat().st_mode
    with pytest.raises(OSError, match="No such file"):
        write_atomically(tmp_path / "no" / "folder.txt", b"")
