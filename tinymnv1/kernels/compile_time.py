"""What keeps the compilation of a kernel short: its machine code is made once, when all of it is there.

Numba makes machine code of every function that it compiles. A kernel, though, is many: its serial parts, and for each
`prange` loop the loop's body, two wrappers around that, and the driver. What one calls is linked into it as LLVM code,
so a serial part is optimised and translated five times over; and of the five, only the driver's code is ever run.
`LateLibrary` leaves the others as LLVM code, and of the loop's body and its wrappers does not even optimise that. The
first training step from an empty cache takes two thirds of the processor's time. (The parts have to be optimised before
they are inlined: without that the layers' depthwise kernels were up to three times as slow.)

The rest is Numba's own work in Python: types, its intermediate code, its writing of LLVM code.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numba import config
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

O2 = type(config.OPT)(2)
NEEDED = (
    "_optimize_final_module",
    "_finalize_final_module",
    "_ensure_finalized",
    "get_pointer_to_function",
    "get_defined_functions",
    "codegen",
)
"""What `LateLibrary` overrides and calls of Numba's. A version that lacks one of these compiles as it always does."""
LOOP = ("__numba_parfor_gufunc", "<numba.np.ufunc.wrappers.", "parallelgufuncwrapper")
"""How the names of a loop's body and of its two wrappers begin."""


class LateLibrary(JITCodeLibrary):
    """The LLVM code of a function of ours and of all that it calls; machine code once its address is asked for.

    What a part lacks is an environment, the Python objects that it would need to print, or to raise an exception with a
    value that is not a constant. No kernel does. Numba's own functions, which others share, are made as ever.
    """

    has_code = False

    def _optimize_final_module(self) -> None:
        if not self.name.startswith(LOOP):
            super()._optimize_final_module()

    def _finalize_final_module(self) -> None:
        """Called when all is linked; and for a library from the cache on disk, which has its code already."""
        ours = "-" in self.name or self.name.startswith(LOOP)  # the hyphen is from `compile`; Python's names have none
        if self._shared_module is not None or not ours:
            self._add_code()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """The address of a function, or 0 where this library does not have it.

        Numba asks for every function's Python wrapper. The parts have none. A loop's body has one, but only the
        driver calls it.
        """
        self._ensure_finalized()
        if self.name.startswith(LOOP):
            return 0
        if not self.has_code and any(function.name == name for function in self.get_defined_functions()):
            self._add_code()
        address: int = super().get_pointer_to_function(name)
        return address

    def _add_code(self) -> None:
        self.has_code = True
        super()._finalize_final_module()

    @property
    def codegen(self) -> Any:
        """Where Numba sets the function's environment: only code has a place for it."""
        return self._codegen if self.has_code else self

    def set_env(self, name: str, environment: Any) -> None:
        """Does nothing, for there is no code."""


@contextmanager
def short_compilation() -> Iterator[None]:
    """Compile with `LateLibrary`, and at LLVM's -O2; afterwards all is as it was.

    -O2 takes a fifth less time than Numba's -O3. The kernels' speed is in the vectors that they spell out, not in what
    -O3 adds. Numba's lock keeps other threads from compiling meanwhile.
    """
    with global_compiler_lock:
        codegen = cpu_target.target_context.codegen()
        level, library = config.OPT, getattr(codegen, "_library_class", None)
        config.OPT = min(level, O2)
        if library is not None and all(hasattr(library, name) for name in NEEDED):
            codegen._library_class = LateLibrary
        try:
            yield
        finally:
            config.OPT = level
            if library is not None:
                codegen._library_class = library
