"""From a pthread_t to the TID in the C library's private structure."""

import os
import struct
import threading

import pytest

from tests.unit.fake_memory import FakeMemory
from threadsurgeon.errors import UnsupportedPython
from threadsurgeon.linux.memory import ProcessMemory
from threadsurgeon.linux.pthread import KNOWN_OFFSETS, SEARCHED, find_tid_offset, read_tids

IDENT, PID = 0x7F00_0000_1000, 4711


def structure(*places, size=SEARCHED, pid=PID):
    """A struct pthread with the PID at some places."""
    content = bytearray(size)
    for place in places:
        content[place : place + 4] = struct.pack("<i", pid)
    return FakeMemory({IDENT: content})


@pytest.mark.parametrize("offset", [*KNOWN_OFFSETS, 0, 724, SEARCHED - 4])
def test_offset_is_where_the_main_thread_has_its_pid(offset):
    """Known places of known libraries, and any other."""
    assert find_tid_offset(structure(offset), IDENT, PID) == offset


def test_known_offset_is_preferred():
    """A number that happens to equal the PID does not mislead where the library is a known one."""
    assert find_tid_offset(structure(16, 720, 900), IDENT, PID) == 720


@pytest.mark.parametrize("memory", [structure(), structure(720, pid=PID + 1), structure(size=100), FakeMemory()])
def test_unknown_structure_is_refused(memory):
    """Without the PID in it, or where it cannot be read."""
    with pytest.raises(UnsupportedPython):
        find_tid_offset(memory, IDENT, PID)


@pytest.mark.parametrize("ident", [0, -1, 2**64 - 1])
def test_impossible_ident_is_refused(ident):
    """Read through the real system call: never another error."""
    with pytest.raises(UnsupportedPython):
        find_tid_offset(ProcessMemory(os.getpid()), ident, os.getpid())


def test_threads_that_ended_are_left_out():
    """The library keeps the structure and clears the TID (0, or -1 while it is being reused), or unmaps it."""
    memory = FakeMemory({address: struct.pack("<i", tid) for address, tid in [(720, 5), (1720, 0), (2720, -1)]})

    assert read_tids(memory, [0, 1000, 2000, 3000], 720) == {0: 5}
    assert read_tids(memory, [], 720) == {}


def test_own_threads_are_found():
    """The judge is Python, which knows both numbers of its threads."""
    memory = ProcessMemory(os.getpid())
    end = threading.Event()
    threads = [threading.Thread(target=end.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        offset = find_tid_offset(memory, threading.main_thread().ident, os.getpid())
        expected = {thread.ident: thread.native_id for thread in threads}

        assert read_tids(memory, list(expected), offset) == expected
    finally:
        end.set()
        for thread in threads:
            thread.join()
