"""The machine: what it is, and the most that its cores and its memory can do.

No program is faster than the machine's peak: so many fused multiply-adds a second, so many bytes a second. The
benchmarks state each speed as a share of it.
"""

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import ROOT, BenchmarkError, Contender, Options, significant, take_turns
from benchmarks.worker import Job
from tinymnv1.ops.window import Array

PACKAGES = ("numpy", "numba", "torch", "onnxruntime", "openvino")
DEPTH, TILES = 128, 20_000
"""Of the product that measures the multiply-adds: one tile's operands, 24 KB at most, stay in the first-level cache."""
COPY_FLOATS = 1 << 26
"""256 MiB are copied: far more than any cache holds."""


def processor() -> str:
    """The processor's name as the system tells it; its family and model, too, since some names say little."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    found = {key: re.search(rf"^{key}\s*: (.+)$", text, re.MULTILINE) for key in ("model name", "cpu family", "model")}
    name, family, model = (match[1].strip() if match else "" for match in found.values())
    if not name:
        return platform.processor() or platform.machine()
    return f"{name} (family {family}, model {model})" if family else name


def cores() -> int:
    """Logical CPUs that this process may use: where a core runs two threads at once, twice its cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peaks(threads: int) -> Job:
    """Set up: register tiles of a product on every thread, and a copy shared out among them."""
    from numba import njit, prange

    from tinymnv1.kernels.simd import PANEL, SIMD, TILE_ROWS, TILE_VECTORS, product_tile

    tile = product_tile(TILE_ROWS, TILE_VECTORS, transposed=False)
    a = np.ones(threads * TILE_ROWS * DEPTH, np.float32)
    b, y = np.ones(threads * DEPTH * PANEL, np.float32), np.empty(threads * TILE_ROWS * PANEL, np.float32)
    source = np.ones(COPY_FLOATS, np.float32)
    target = np.zeros_like(source)

    @njit(parallel=True)
    def fma(a: Array, b: Array, y: Array) -> None:
        for t in prange(threads):
            for _ in range(TILES):
                tile(
                    a,
                    t * TILE_ROWS * DEPTH,
                    DEPTH,
                    DEPTH,
                    b,
                    t * DEPTH * PANEL,
                    PANEL,
                    y,
                    t * TILE_ROWS * PANEL,
                    PANEL,
                )

    @njit(parallel=True)
    def copy(source: Array, target: Array) -> None:
        for i in prange(source.size):
            target[i] = source[i]

    flops = 2 * threads * TILES * TILE_ROWS * PANEL * DEPTH
    output = {"simd": SIMD, "flops": flops, "bytes": 2 * source.nbytes}
    return Job({"fma": lambda: fma(a, b, y), "copy": lambda: copy(source, target)}, output)


def commit() -> str | None:
    """The commit that is checked out, "+" if a Python file differs from it; None where git does not say."""
    try:
        told = [
            subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for arguments in (
                ("rev-parse", "--short", "HEAD"),
                ("status", "--porcelain", "--untracked-files=no", "--", "*.py"),
            )
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return told[0] + ("+" if told[1] else "")


def describe(options: Options) -> dict[str, Any]:
    """What every result carries: processor, versions, threads, date, commit, and the peaks as `measure_peaks` does."""
    measured = measure_peaks(options)
    return {
        "processor": processor(),
        "cores": cores(),
        "threads": options.threads,
        **measured,
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
    }


def with_later_peaks(machine: dict[str, Any], options: Options) -> dict[str, Any]:
    """What `describe` told, with the peaks measured again: of each the larger one, as a machine's speed changes."""
    again = measure_peaks(options)
    return machine | {key: max(machine[key], again[key]) for key in ("gflops", "copy_gbs")}


def measure_peaks(options: Options) -> dict[str, Any]:
    """The widest vectors ("simd"), and what the machine can do at most, being the fastest of several turns.

    gflops: of fused multiply-adds, each two operations.  copy_gbs: bytes read and written.
    """
    rounds = 2 if options.quick else 5
    measured = take_turns([Contender("peak", peaks, options.threads)], rounds, "machine")["peak"]
    if measured.missing is not None:
        raise BenchmarkError(f"the machine's peak could not be measured: {measured.missing}")
    output, seconds = measured.output, measured.seconds
    return {
        "simd": output["simd"],
        "gflops": significant(output["flops"] / min(seconds["fma"]) / 1e9, 3),
        "copy_gbs": significant(output["bytes"] / min(seconds["copy"]) / 1e9, 3),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
