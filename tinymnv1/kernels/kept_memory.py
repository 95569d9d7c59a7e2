"""Memory for large arrays that is kept when an array is gone, and given to the next one of about its size.

The C library gives the memory of a large array back to the system at once, and the next array's pages are new: each
costs a page fault, and zeros that nobody asked for. That takes as long as a pass over the array, on a virtual machine
many times as long. A layer makes such an array for each of its results. On AVX2 (Zen 3) a training step layer by layer
(32x32, batch 128, width 1.0) is 1.2 times as fast with it; it needs no more memory at its peak.

The fused engines do not need this: each has one large array, which is more than MOST_BYTES.
"""

from collections import deque

import numpy as np

from tinymnv1.ops.window import Array

LEAST_BYTES, MOST_BYTES = 1 << 22, 1 << 26
"""Arrays of 4 to 64 MiB are kept: smaller ones the C library keeps itself."""

KEPT_BYTES = 1 << 29
"""At most 512 MiB are kept in all; the oldest go first."""

_kept: deque[Array] = deque()


class _Loan:
    """What an array has as its base: once nobody refers to that array, its memory is kept."""

    def __init__(self, memory: Array) -> None:
        self._memory, self.__array_interface__ = memory, memory.__array_interface__

    def __del__(self) -> None:
        if _kept is None:  # the interpreter is shutting down
            return
        _kept.append(self._memory)
        while sum(memory.nbytes for memory in list(_kept)) > KEPT_BYTES:
            _kept.popleft()


def uninitialised(floats: int) -> Array:
    """So many float32, of any value. What fits is taken out of the kept ones before it is looked at, so threads may."""
    if not LEAST_BYTES <= 4 * floats <= MOST_BYTES:
        return np.empty(floats, np.float32)
    for _ in range(len(_kept)):
        try:
            memory = _kept.popleft()
        except IndexError:  # another thread was faster
            break
        if floats <= memory.size <= floats + floats // 4:
            return np.asarray(_Loan(memory))[:floats]
        _kept.append(memory)
    return np.asarray(_Loan(np.empty(floats, np.float32)))
