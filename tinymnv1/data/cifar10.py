"""CIFAR-10, the binary version: 50,000 training and 10,000 test images of 32x32 pixels in ten classes.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. A record is one label byte and
3,072 bytes of pixels: 1,024 red, 1,024 green, 1,024 blue, row by row. The pickled version is never read: a data file
must not be able to run code. Every file's md5 is checked, so a damaged one is an error and not a strange accuracy.
"""

import hashlib
import tarfile
import zlib
from pathlib import Path

import numpy as np

from tinymnv1.data.dataset import Dataset
from tinymnv1.errors import DataError
from tinymnv1.ops.window import Array

try:
    from lzma import LZMAError
except ImportError:  # a Python without it opens no .tar.xz either
    LZMAError = EOFError  # type: ignore[assignment, misc]

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARCHIVE = "cifar-10-binary.tar.gz"
ARCHIVE_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
FOLDER = "cifar-10-batches-bin"
FILES = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
PIXELS = 3 * 32 * 32
FILE_BYTES = 10_000 * (1 + PIXELS)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


def load_cifar10(data_dir: Path | None = None) -> Dataset:
    """Read CIFAR-10 from disk, or download it once (170 MB, with a progress bar) into the user's cache folder.

    data_dir: a folder that holds `cifar-10-batches-bin/`, its six .bin files, or `cifar-10-binary.tar.gz`; or that
    archive itself. None downloads.
    Raises DataError if nothing is there, a file is cut short or damaged, or the download fails.
    """
    place = _find(data_dir) if data_dir is not None else _download()
    raw = _read_archive(place) if place.is_file() else _read_folder(place)
    parts = {name: _decode(content) for name, content in raw.items()}
    train = [parts[name] for name in FILES if name != "test_batch.bin"]
    images, labels = (np.concatenate(arrays) for arrays in zip(*train, strict=True))
    return Dataset("cifar10", CLASSES, images, labels, *parts["test_batch.bin"], MEAN, STD)


def _find(data_dir: Path) -> Path:
    """The folder with the .bin files, or the archive."""
    if data_dir.is_file():
        return data_dir
    if not data_dir.is_dir():
        raise DataError(f"{data_dir}: no such folder; --data-dir must hold {FOLDER}/ or {ARCHIVE}")
    for folder in (data_dir / FOLDER, data_dir):
        if any((folder / name).exists() for name in FILES):
            return folder
    if (data_dir / ARCHIVE).is_file():
        return data_dir / ARCHIVE
    raise DataError(f"{data_dir}: holds neither {FOLDER}/ nor {ARCHIVE}; get the archive from {URL}")


def _download() -> Path:
    import pooch  # here, because it takes a while to load and few runs need it

    try:
        return Path(pooch.retrieve(URL, "md5:" + ARCHIVE_MD5, ARCHIVE, pooch.os_cache("tinymnv1"), progressbar=True))
    except (OSError, ValueError) as error:
        reason = str(error).split("\n")[0][:200]
        raise DataError(
            f"could not download CIFAR-10 ({reason}); fetch {URL} yourself and pass --data-dir FOLDER"
        ) from error


def _read_folder(folder: Path) -> dict[str, bytes]:
    raw = {}
    for name in FILES:
        try:
            raw[name] = _verified(name, (folder / name).read_bytes(), str(folder / name))
        except OSError as error:
            raise DataError(f"{folder / name}: cannot be read ({error.strerror}); get it from {URL}") from error
    return raw


def _read_archive(archive: Path) -> dict[str, bytes]:
    """The six files out of the tar archive, in memory: nothing is unpacked onto the disk."""
    raw: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = Path(member.name).name
                if name in FILES and member.isfile() and member.size <= FILE_BYTES:
                    content = tar.extractfile(member)
                    raw[name] = _verified(name, content.read() if content else b"", f"{archive}: {name}")
    except (tarfile.TarError, EOFError, zlib.error, LZMAError, OSError) as error:
        raise DataError(
            f"{archive}: damaged or not a tar archive ({str(error).split(':')[0]}); get it again from {URL}"
        ) from error
    for name in FILES:
        if name not in raw:
            raise DataError(f"{archive}: {name} is missing or too large; get the archive again from {URL}")
    return raw


def _verified(name: str, content: bytes, where: str) -> bytes:
    if len(content) != FILE_BYTES:
        raise DataError(f"{where}: has {len(content):,} bytes instead of {FILE_BYTES:,}; get it again from {URL}")
    if (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != FILES[name]:
        raise DataError(f"{where}: damaged, its md5 is {found} instead of {FILES[name]}; get it again from {URL}")
    return content


def _decode(content: bytes) -> tuple[Array, Array]:
    """Images (N, 32, 32, 3) uint8 and labels (N,) int64 of one file."""
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + PIXELS)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # planes to NHWC
    return np.ascontiguousarray(images), records[:, 0].astype(np.int64)
