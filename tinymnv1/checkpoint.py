"""Checkpoints: one safetensors file, written atomically, and verified to the last bit when it is read.

A checkpoint is arrays plus a JSON document (`meta`). The format of safetensors has no checksum, so we put one into
its metadata: the SHA-256 of the whole file, computed with 64 zeros standing in the checksum's own place.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from tinymnv1.errors import CheckpointError
from tinymnv1.files import write_atomically
from tinymnv1.ops.window import Array

FORMAT = "tinymnv1-1"
_BLANK = "0" * 64


def save_checkpoint(path: Path, arrays: dict[str, Array], meta: dict[str, Any], previous: Path | None = None) -> None:
    """Write arrays and meta (anything JSON takes) to `path`, replacing what was there in one step.

    previous: the name under which the file that `path` named so far is kept.
    Raises CheckpointError if the file cannot be written, a full disk included; the old file is then still there, at
    `path` or at `previous`.
    """
    # safetensors writes the bytes of a non-contiguous array in the wrong order without a word.
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    blank = save(contiguous, {"format": FORMAT, "meta": json.dumps(meta), "sha256": _BLANK})
    digest = hashlib.sha256(blank).hexdigest()
    header_end = 8 + int.from_bytes(blank[:8], "little")
    header = blank[:header_end].replace(f'"{_BLANK}"'.encode(), f'"{digest}"'.encode(), 1)
    try:
        write_atomically(path, header + blank[header_end:], previous)
    except OSError as error:
        raise CheckpointError(f"{path}: the checkpoint could not be written ({error.strerror})") from error


def load_checkpoint(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arrays and meta that `save_checkpoint` wrote.

    Raises CheckpointError if the file is missing, is not a checkpoint of this project, was cut short, or differs in a
    single bit from what was written.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        header_end = 8 + int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8:header_end])["__metadata__"]
        found, kind = metadata["sha256"], metadata["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged, or not a checkpoint of tinymnv1") from error
    header = content[:header_end].replace(f'"{found}"'.encode(), f'"{_BLANK}"'.encode(), 1)
    if hashlib.sha256(header + content[header_end:]).hexdigest() != found:
        raise CheckpointError(f"{path}: damaged: its content does not match its checksum")
    if kind != FORMAT:
        raise CheckpointError(f"{path}: has format {kind!r}, this version reads {FORMAT!r}")
    return load(content), json.loads(metadata["meta"])


def with_prefix(arrays: dict[str, Array], prefix: str) -> dict[str, Array]:
    """The arrays whose names begin with `prefix` ("model." or "optimizer."), under the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
