"""Running somebody else's code: a process of its own, a time limit, and nothing left behind afterwards."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

OUTPUT_KEPT = 4000
TOKEN = "TINYMNV1_GRADCHECK_RUN"


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    status: its exit status; below 0, the number of the signal that killed it.  timed_out: whether we ended it.
    printed: the beginning of what it wrote to stdout and stderr.
    """

    status: int
    timed_out: bool
    printed: str

    @property
    def how(self) -> str:
        """In words: "with exit status 3", "by signal SIGSEGV"."""
        if self.status >= 0:
            return f"with exit status {self.status}"
        with contextlib.suppress(ValueError):
            return f"by signal {signal.Signals(-self.status).name}"
        return f"by signal {-self.status}"


def run_isolated(command: Sequence[str], seconds: float, folder: Path) -> Ended:
    """Run Python in `folder`, and end it and all that it started after `seconds`.

    command: a script or -m module, and its arguments.
    stdin is empty; stdout and stderr go to a file, not to a pipe, so that a child which holds them open cannot make us
    wait. Libraries are told to use one thread, since several of these run side by side.
    """
    token = uuid.uuid4().hex
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # -P keeps the working folder off the module path; the package has to be found all the same, installed or not.
    paths = os.pathsep.join(filter(None, (str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH"))))
    threads["PYTHONPATH"] = paths
    environment = {**os.environ, **threads, TOKEN: token, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": "utf-8"}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-P", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            start_new_session=os.name == "posix",
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        timed_out = False
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            _end_all(process, token)
        output.seek(0)
        printed = output.read(OUTPUT_KEPT).decode("utf-8", "replace")
    return Ended(process.returncode, timed_out, printed)


def _end_all(process: "subprocess.Popen[bytes]", token: str) -> None:
    """End the process and everything that it started, also what outlives it."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # its own group, by start_new_session
        for pid in _descendants(token):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
    elif process.poll() is None:
        subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], capture_output=True, check=False)
    process.wait()


def _descendants(token: str) -> list[int]:
    """Processes that carry our token in their environment: children that left the group with setsid. Linux only."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"{TOKEN}={token}".encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
    return found
