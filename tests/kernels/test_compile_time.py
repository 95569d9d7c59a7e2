"""Machine code is made of whole kernels only, and other people's functions are compiled as ever."""

import numba
import numpy as np
import pytest
from numba import config, njit, prange
from numba.core.codegen import JITCodeLibrary
from numba.core.registry import cpu_target

from tinymnv1.kernels import compile, compile_time

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="without the compiler nothing is compiled")


def new_kernel():
    """A kernel that nobody has compiled: a driver whose loop calls a part, which calls another."""

    @compile.serial
    def inner(x, k):
        return x[k] + 1

    @compile.serial
    def part(x, k, y):
        y[k] = 2 * inner(x, k)

    def driver(x):
        y = np.empty_like(x)
        for k in prange(len(x)):
            part(x, np.int64(k), y)
        return y

    return compile._compiled(driver, parallel=compile.PRANGE_ONLY)  # as `parallel`, but not from the cache on disk


@pytest.fixture(autouse=True)
def the_third_level(monkeypatch):
    """So that a level which another test left behind is seen."""
    monkeypatch.setattr(config, "OPT", type(config.OPT)(3))


@pytest.fixture
def with_code(monkeypatch):
    """The names of the libraries that machine code is made of."""
    names, make = [], JITCodeLibrary._finalize_specific
    monkeypatch.setattr(
        JITCodeLibrary, "_finalize_specific", lambda library: names.append(library.name) or make(library)
    )
    return names


def ours(names):
    """The parts, the loop and its wrappers, and the driver, without what is Numba's own: the allocation of y."""
    return [name for name in names if any(word in name for word in ("inner", "part", "driver", "parfor", "ufunc"))]


def as_ever():
    """How Numba compiles everybody's functions."""
    return config.OPT, cpu_target.target_context.codegen()._library_class


X = np.arange(100, dtype=np.float32)


def test_machine_code_is_made_of_the_driver_alone(with_code):
    np.testing.assert_array_equal(new_kernel()(X), 2 * (X + 1))
    (name,) = ours(with_code)
    assert "driver" in name


def test_a_numba_without_the_names_that_are_overridden_compiles_as_ever(with_code, monkeypatch):
    monkeypatch.setattr(compile_time, "NEEDED", ("a name that it lost",))
    np.testing.assert_array_equal(new_kernel()(X), 2 * (X + 1))
    assert len(ours(with_code)) == 6  # two parts, the loop's body, its two wrappers, the driver


def test_what_is_numbas_own_is_made_as_ever(with_code):
    """Other people's functions share it: that allocates y, for a type that no kernel has used before."""
    new_kernel()(X.astype(np.int16))
    assert any("empty_like" in name for name in with_code)


def test_other_functions_are_compiled_as_ever(with_code):
    """Their parts, too, have machine code."""
    before = as_ever()
    new_kernel()(X)
    assert as_ever() == before
    assert before[1] is JITCodeLibrary
    with_code.clear()

    @njit(no_cpython_wrapper=True)
    def part(x):
        return x + 1

    @njit
    def driver(x):
        return 2 * part(x)

    assert driver(3) == 8
    assert len(ours(with_code)) == 2


def test_a_kernel_that_cannot_be_compiled_changes_nothing():
    before = as_ever()
    broken = compile.single(lambda x: x.no_such_attribute)
    with pytest.raises(numba.TypingError):
        broken(X)
    assert as_ever() == before
