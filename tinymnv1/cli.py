"""What the command lines share: one line for a user's mistake, and exit statuses.

0 done, 2 a mistake that the user can mend, 130 stopped with Ctrl-C or SIGTERM.
"""

import argparse
import errno
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from tinymnv1.errors import TinyMNError


def path_argument(text: str) -> Path:
    """A path that an option or argument names, for argparse's `type`. An empty one is a mistake, not the folder here.

    It is what a shell makes of a variable that is not set. A link that leads to itself is a mistake, too.
    """
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    try:
        Path(text).resolve()
    except RuntimeError as error:  # so before Python 3.13, which finds nothing there instead
        raise argparse.ArgumentTypeError(f"{text} is a link that leads to itself") from error
    return Path(text)


class CommandParser(argparse.ArgumentParser):
    """argparse, but a wrong argument gives one line instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and one line on stderr."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def run_command(main: Callable[[], int]) -> int:
    """Run a command line's main; turn what a user can mend into one line on stderr and status 2."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us (`>&-`), or pythonw
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 (open until the end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no reason to stop
    status = 0
    try:
        status = main()
        sys.stdout.flush()
        return status
    except TinyMNError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except MemoryError:
        print("error: not enough memory; take fewer images at a time, fewer pixels or channels", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, `head` say, has left: nothing to complain about
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return status
    except OSError as error:
        if error.errno == errno.ENOSPC:
            print("error: the disk that the output goes to is full; free some space", file=sys.stderr)
        elif error.filename is not None:  # a path that is too long, or that we may not read
            print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        else:
            raise
        return 2
