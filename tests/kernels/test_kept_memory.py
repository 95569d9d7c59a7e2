"""Memory that is given to the next array: to one at a time, and not for ever."""

import threading

import numpy as np
import pytest

from tinymnv1.kernels import kept_memory
from tinymnv1.kernels.kept_memory import LEAST_BYTES, MOST_BYTES, uninitialised

FLOATS = LEAST_BYTES // 4


@pytest.fixture(autouse=True)
def nothing_kept():
    kept_memory._kept.clear()
    yield
    kept_memory._kept.clear()


def place(array):
    return array.__array_interface__["data"][0]


def test_memory_is_given_to_the_next_array():
    a = uninitialised(FLOATS + 100)
    assert a.shape == (FLOATS + 100,)
    assert a.dtype == np.float32
    first = place(a)
    del a
    b, c = uninitialised(FLOATS), uninitialised(FLOATS)
    assert place(b) == first
    assert b.shape == (FLOATS,)
    assert not np.shares_memory(b, c)


def test_a_view_holds_the_memory():
    a = uninitialised(FLOATS)
    view = a[7:].reshape(-1, 1)
    del a
    assert not np.shares_memory(view, uninitialised(FLOATS))


def test_an_array_gets_no_more_than_a_quarter_too_much():
    a = uninitialised(2 * FLOATS)
    del a
    small = uninitialised(FLOATS)
    assert len(kept_memory._kept) == 1
    assert small.size == FLOATS


@pytest.mark.parametrize("floats", [0, FLOATS - 1, MOST_BYTES // 4 + 1])
def test_small_and_very_large_arrays_are_not_kept(floats):
    a = uninitialised(floats)
    assert a.size == floats
    del a
    assert not kept_memory._kept


def test_the_oldest_memory_goes_first(monkeypatch):
    monkeypatch.setattr(kept_memory, "KEPT_BYTES", 2 * LEAST_BYTES)
    arrays = [uninitialised(FLOATS) for _ in range(3)]
    places = [place(a) for a in arrays]
    while arrays:
        del arrays[0]
    assert [place(memory) for memory in kept_memory._kept] == places[1:]


def test_threads_share_no_memory():
    mixed = []

    def work(number):
        for _ in range(60):
            a = uninitialised(FLOATS)
            a[::997] = number
            if (a[::997] != number).any():
                mixed.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not mixed
