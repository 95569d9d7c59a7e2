"""How every kernel is compiled, and the check that stands before it.

`serial` functions do the work on one slice; `parallel` functions are thin drivers that share the slices out with
`prange`. Only the drivers go through Numba's parallel pipeline, which compiles several times slower. It hands the
loop's index on as an unsigned number in one of its passes and as a signed one in another; `np.int64(index)` keeps it
from compiling what the loop calls once for each. A constant is a type of its own, too, where other calls hand over an
integer: hence some more `np.int64`.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import config, get_num_threads, njit

from tinymnv1.errors import ConfigError
from tinymnv1.kernels.compile_time import short_compilation
from tinymnv1.kernels.kept_memory import uninitialised
from tinymnv1.kernels.simd import SIMD
from tinymnv1.ops.window import Array, require_gradient

# Products are contracted to fused multiply-adds, but sums stay in the order in which they are written ("reassoc" is not
# here): LLVM would make one long chain of three short ones, and order the sums of two copies of a function differently,
# so that a rerun would differ in the last digit. NaN and infinity stay what they are ("nnan" and "ninf" are
# not, either): a run that diverges must be seen to diverge.
FAST = {"contract", "nsz"}

OTHER_LOOPS = ("comprehension", "reduction", "inplace_binop", "setitem", "numpy", "stencil", "fusion")
PRANGE_ONLY = {"prange": True} | dict.fromkeys(OTHER_LOOPS, False)
"""Numba need not look for other loops to run in parallel."""

CHUNKS = 16
"""Into how many parts a reduction over pixels or images is split, at most, where each part needs much memory for its
sums; elsewhere each block of rows is a part. It fixes the order of summation, so it is a constant and not the number of
threads. More threads than that find nothing to do in such a reduction."""


LINE_FLOATS = 64 // 4
"""Floats of a cache line."""

FAR_BYTES = 1 << 23
"""Arrays of more bytes than that, together, are expected in memory, not in a cache."""


def _version() -> str:
    """The vectors' width and a hash of all kernels' sources.

    It becomes part of each compiled function's name, hence of its file in Numba's on-disk cache. Numba itself would
    only notice an edit in the function's own file, and would take an AVX-512 kernel for an AVX2 one.
    """
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return f"{SIMD}_{hashlib.sha256(sources).hexdigest()[:12]}"


VERSION = _version()


def _compiled(function: Callable[..., Any], **options: Any) -> Any:
    """What the three below have in common. Division by zero gives inf, as in NumPy."""
    function.__qualname__ += f"-{VERSION}"
    dispatcher = njit(fastmath=FAST, error_model="numpy", no_cfunc_wrapper=True, **options)(function)
    if not config.DISABLE_JIT:
        dispatcher.compile = short_compilation()(dispatcher.compile)
    return dispatcher


def serial(function: Callable[..., Any]) -> Any:
    """Compile a part of other kernels. It becomes part of their code: Python cannot call it, and it needs no cache."""
    return _compiled(function, no_cpython_wrapper=True)


def single(function: Callable[..., Any]) -> Any:
    """Compile a kernel that one thread runs."""
    return _compiled(function, cache=True)


def parallel(function: Callable[..., Any]) -> Any:
    """Compile a driver whose `prange` loops are shared out among the threads."""
    return _compiled(function, cache=True, parallel=PRANGE_ONLY)


def worth_a_process(kernel: Any) -> bool:
    """Whether another process should compile `kernel`: there are threads to spare, and it is not in the cache on disk.

    There, Numba's index of a function's compiled forms is a file that has the function's name in its own. It is not
    read, so a kernel that is there for other types counts as compiled.
    """
    if config.DISABLE_JIT or get_num_threads() == 1:
        return False
    return not any(Path(kernel.stats.cache_path).glob(f"*.{kernel.py_func.__qualname__}-*.nbi"))


def gradient_of(shape: tuple[int, ...], dy: Array, op: str) -> Array:
    """dy as contiguous float32. Raises ConfigError unless it has the shape of the op's output."""
    require_gradient(dy, shape, op)
    return as_float32(dy, "dy")


def scratch_memory(floats: int, take: Callable[[int], Array] | None = None) -> Array:
    """At least so many float32 for each thread: a kernel takes the row of `numba.get_thread_id()`.

    take: gives so many float32, if they are not to be an array of their own.
    """
    floats = whole_lines(floats)
    return (take or aligned)(config.NUMBA_NUM_THREADS * floats).reshape(-1, floats)


def whole_lines(floats: int) -> int:
    """floats, rounded up to whole cache lines."""
    return -(-floats // LINE_FLOATS) * LINE_FLOATS


def far(*arrays: Array) -> bool | None:
    """True if these arrays are more than FAR_BYTES together, else None: Numba compiles a version for each."""
    return True if sum(a.nbytes for a in arrays) > FAR_BYTES else None


def aligned(floats: int) -> Array:
    """An uninitialised float32 array whose first number begins a cache line, as NumPy's own need not.

    A vector of 16 floats is a cache line. If arrays are out of step with it, each access touches two. For small arrays
    that are read again and again, weights and sums, this has cost up to half of a kernel's time.
    """
    buffer = uninitialised(floats + LINE_FLOATS)
    skip = -(buffer.ctypes.data // 4) % LINE_FLOATS
    return buffer[skip : skip + floats]


def aligned_zeros(floats: int) -> Array:
    """As `aligned`, filled with zeros."""
    array = aligned(floats)
    array[:] = 0
    return array


def aligned_like(x: Array) -> Array:
    """An uninitialised float32 array of x's shape; as `aligned`."""
    return aligned(x.size).reshape(x.shape)


def as_float32(array: Array, name: str) -> Array:
    """The array itself, or a C-contiguous copy of it. Raises ConfigError unless it is float32."""
    if array.dtype != np.float32:
        raise ConfigError(f'{name} must be float32 for the Numba kernels, got {array.dtype}; use backend="numpy"')
    return np.asarray(array, order="C")  # ascontiguousarray would give a single number an axis
