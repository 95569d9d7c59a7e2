"""Writing a file whole or not at all, and keeping the one before it."""

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

_TEMPORARY = ".part"


def write_atomically(path: Path, content: bytes, previous: Path | None = None) -> None:
    """Put `content` at `path` so that a reader, or a crash at any moment, sees the old file or the new one, never half.

    The bytes go to a temporary file in the same folder, reach the disk, and only then take the name. Raises OSError
    if that fails; the old file is then still there, at `path` or at `previous`, and no temporary one is left. A kill
    can leave a temporary file: `remove_temporary_files` clears it away.

    previous: the name under which the old file stays. It is moved there once the new bytes are on the disk, so a crash
    between the two moves leaves nothing at `path`, but the old file at `previous`.
    """
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if os.name == "posix":
            umask = os.umask(0)
            os.umask(umask)
            Path(temporary).chmod(0o666 & ~umask)  # mkstemp gives 0600; a result file should be readable like any other
        if previous is not None:
            with contextlib.suppress(FileNotFoundError):  # the first of its name has none before it
                path.replace(previous)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
    if os.name == "posix":  # the new name itself must survive a power cut, too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # some network drives cannot; the file is in its place all the same
                os.fsync(folder)
        finally:
            os.close(folder)


def remove_temporary_files(folder: Path, names: Iterable[str]) -> None:
    """Delete what killed writes of files with these names left in `folder`. Raises OSError if that fails."""
    for name in names:
        for temporary in folder.glob(f".{name}.*{_TEMPORARY}"):
            temporary.unlink(missing_ok=True)
