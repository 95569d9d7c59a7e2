"""CIFAR-10: every way to hold it on disk, every kind of damage, and the real files where they are at hand.

The damage tests use small files in the same format, with their own hashes put in place of the real ones.
"""

import gzip
import hashlib
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tinymnv1.data import channel_statistics, cifar10, load_cifar10
from tinymnv1.errors import DataError

RECORDS = 20


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder with six files of 20 records."""
    folder = tmp_path / "data" / cifar10.FOLDER
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    hashes = {}
    for name in cifar10.FILES:
        records = rng.integers(0, 256, (RECORDS, 3073), np.uint8)
        records[:, 0] %= 10
        (folder / name).write_bytes(records.tobytes())
        hashes[name] = hashlib.md5(records.tobytes()).hexdigest()
    monkeypatch.setattr(cifar10, "FILES", hashes)
    monkeypatch.setattr(cifar10, "FILE_BYTES", RECORDS * 3073)
    return folder


def make_archive(folder, mode="w:gz"):
    archive = folder.parent / cifar10.ARCHIVE
    with tarfile.open(archive, mode) as tar:
        tar.add(folder, arcname=cifar10.FOLDER)
    return archive


def test_the_planes_become_pixels(small):
    data = load_cifar10(small)
    raw = np.frombuffer((small / "data_batch_2.bin").read_bytes(), np.uint8).reshape(RECORDS, 3073)
    assert data.train_images.shape == (5 * RECORDS, 32, 32, 3)
    image = data.train_images[RECORDS + 7]  # the 8th of the second file
    assert data.train_labels[RECORDS + 7] == raw[7, 0]
    for channel in range(3):
        for row, column in ((0, 0), (3, 31), (31, 5)):
            assert image[row, column, channel] == raw[7, 1 + 1024 * channel + 32 * row + column]


def test_folder_parent_and_archive_give_the_same(small, tmp_path):
    expected = load_cifar10(small).fingerprint()
    assert load_cifar10(small.parent).fingerprint() == expected
    archive = make_archive(small)
    assert load_cifar10(archive).fingerprint() == expected
    alone = tmp_path / "archive only"
    alone.mkdir()
    archive.rename(alone / archive.name)
    assert load_cifar10(alone).fingerprint() == expected


def test_one_flipped_bit_anywhere_is_an_error(small):
    rng = np.random.default_rng(1)
    names = list(cifar10.FILES)
    for _ in range(200):
        path = small / names[rng.integers(6)]
        good = path.read_bytes()
        bad = bytearray(good)
        bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        path.write_bytes(bad)
        with pytest.raises(DataError, match=f"{path.name}.*damaged"):
            load_cifar10(small)
        path.write_bytes(good)
    load_cifar10(small)


def test_a_file_cut_short_anywhere_is_an_error(small):
    path = small / "data_batch_4.bin"
    good = path.read_bytes()
    for length in np.random.default_rng(2).integers(0, len(good), 200):
        path.write_bytes(good[:length])
        with pytest.raises(DataError, match=r"data_batch_4.bin: has .* bytes instead of"):
            load_cifar10(small)


def test_a_damaged_archive_is_an_error_or_reads_the_same(small):
    """A bit of the tar that belongs to nothing (a time stamp, padding) may flip; the files themselves may not."""
    expected = load_cifar10(small).fingerprint()
    archive = make_archive(small)
    good = archive.read_bytes()
    rng = np.random.default_rng(3)
    refused = 0
    for kind in ["flip"] * 200 + ["cut"] * 50:
        bad = bytearray(good)
        if kind == "flip":
            bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        else:
            bad = bad[: rng.integers(len(bad) - 100)]
        archive.write_bytes(bad)
        try:
            found = load_cifar10(archive).fingerprint()
        except DataError as error:
            found = expected if str(archive) in str(error) else "an error that does not name the file"
            refused += 1
        assert found == expected
    assert refused > 200


def test_a_damaged_archive_of_another_compression_is_an_error(small):
    lzma = pytest.importorskip("lzma", reason="this Python was built without it")
    archive = make_archive(small)
    packed = lzma.compress(gzip.decompress(archive.read_bytes()))
    for place in np.linspace(100, len(packed) - 100, 40, dtype=int):  # data, and what says how it is packed
        archive.write_bytes(packed[:place] + bytes(20) + packed[place + 20 :])
        with pytest.raises(DataError, match="damaged"):
            load_cifar10(archive)


def test_what_is_missing_is_named(small, tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        load_cifar10(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"neither.*nor"):
        load_cifar10(tmp_path)
    (small / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_3.bin: cannot be read"):
        load_cifar10(small)
    archive = make_archive(small)
    with pytest.raises(DataError, match=r"data_batch_3.bin is missing"):
        load_cifar10(archive)


def test_a_failed_download_says_what_to_do(monkeypatch):
    import pooch

    def offline(*args, **kwargs):
        raise ConnectionError("no route to host\nsecond line")

    monkeypatch.setattr(pooch, "retrieve", offline)
    with pytest.raises(DataError, match="--data-dir") as error:
        load_cifar10()
    assert "\n" not in str(error.value)


def test_the_download_is_checked_against_the_known_hash(monkeypatch, small):
    """pooch gets the archive's hash and a place in the user's cache, and what it returns is read."""
    import pooch

    archive = make_archive(small)
    seen = []
    monkeypatch.setattr(pooch, "retrieve", lambda *args, **kwargs: seen.append(args) or str(archive))
    assert len(load_cifar10().train_labels) == 5 * RECORDS
    assert seen[0][:2] == (cifar10.URL, "md5:c32a1d4ab5d03f1284b67883e8d87530")


def real_data():
    """The folder that TINYMNV1_DATA names, or ../shared/data beside the project."""
    place = Path(os.environ.get("TINYMNV1_DATA", Path(__file__).parents[3] / "shared" / "data"))
    return place if (place / cifar10.FOLDER).is_dir() else None


@pytest.mark.skipif(real_data() is None, reason="CIFAR-10 is not here: set TINYMNV1_DATA to a folder that holds it")
def test_the_real_files():
    data = load_cifar10(real_data())
    assert data.train_images.shape == (50_000, 32, 32, 3)
    assert np.bincount(data.train_labels).tolist() == [5_000] * 10
    assert np.bincount(data.test_labels).tolist() == [1_000] * 10
    mean, std = channel_statistics(data.train_images)
    np.testing.assert_allclose(mean, cifar10.MEAN, atol=6e-5)
    np.testing.assert_allclose(std, cifar10.STD, atol=6e-5)
