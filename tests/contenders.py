"""Contenders for tests/test_benchmarks.py; each runs in a process of its own, which imports this file."""

import os
from pathlib import Path

from benchmarks.worker import Job


def writer(threads, name, path):
    """A task that writes its name and its process's thread setting into a file."""

    def task():
        with Path(path).open("a") as file:
            print(name, os.environ["NUMBA_NUM_THREADS"], threads, file=file)
        os.write(1, b"not an answer\n")  # as a library in C might

    return Job({"step": task}, [1.0, 2.0])


def absent(threads):
    raise ImportError("cannot import name 'x' from '/somewhere/secret/library.py'\nmore")


def short_lived(threads):
    """Ends its process at the second turn: the first takes three calls to warm up and four to measure, at least."""
    calls = []

    def task():
        calls.append(1)
        if len(calls) > 7:
            os._exit(3)

    return Job({"step": task})


def breaks_later(threads):
    """Raises at the second turn."""
    calls = []

    def task():
        calls.append(1)
        if len(calls) > 7:
            raise ValueError("no more")

    return Job({"step": task})
