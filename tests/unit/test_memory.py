"""Reading a process's memory: exactly what was asked for, or said not to be there."""

import ctypes
import mmap
import os
import subprocess
import sys

import pytest

from threadsurgeon.errors import NoSuchProcess, PermissionDenied
from threadsurgeon.linux import memory as memory_module
from threadsurgeon.linux.memory import MAX_RANGES, MAX_READ, BadAddress, ProcessMemory

IMPOSSIBLE = [(0, 8), (-8, 8), (2**63, 8), (2**64, 8), (2**64 - 8, 16), (8, 8), (2**47, 8)]


@pytest.fixture
def own():
    return ProcessMemory(os.getpid())


@pytest.fixture
def buffer():
    """Some bytes of our own, and their address."""
    content = bytes(range(256)) * 64
    holder = ctypes.create_string_buffer(content, len(content))
    return content, ctypes.addressof(holder), holder


@pytest.fixture
def edge():
    """The address of a page that is the last one readable: the next is not."""
    area = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    area[:] = b"x" * len(area)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(start + mmap.PAGESIZE), mmap.PAGESIZE, 0) == 0
    yield start
    assert libc.mprotect(ctypes.c_void_p(start + mmap.PAGESIZE), mmap.PAGESIZE, 3) == 0


@pytest.mark.parametrize("size", [1, 7, 8, 4096, 256 * 64])
def test_memory_is_read_exactly(own, buffer, size):
    """As many bytes as asked for."""
    content, address, _ = buffer

    assert own.read(address, size) == content[:size]


@pytest.mark.parametrize(("address", "size"), IMPOSSIBLE)
def test_impossible_address_is_a_bad_address(own, address, size):
    """Null, negative, in the kernel's half or beyond 64 bits: one and the same error."""
    with pytest.raises(BadAddress) as caught:
        own.read(address, size)

    assert (caught.value.address, caught.value.size) == (address, size)


@pytest.mark.parametrize("size", [0, -1, -(2**70), MAX_READ + 1, 2**40, 2**70])
def test_impossible_size_is_a_bad_address(own, buffer, size):
    """Nothing is allocated for a size that only a damaged field can have."""
    with pytest.raises(BadAddress):
        own.read(buffer[1], size)


def test_range_over_the_edge_is_bad_as_a_whole(own, edge):
    """Up to the last byte it is read, and one more is too much: never half an answer."""
    page = mmap.PAGESIZE

    assert own.read(edge, page) == b"x" * page
    assert own.read(edge + page - 1, 1) == b"x"
    assert own.read_many([(edge + page - 1, 2), (edge + page, 1), (edge, page + 1)]) == [None, None, None]


def test_bad_ranges_among_good_ones_are_none(own, buffer, edge):
    """Each good range is answered, wherever the bad ones stand and of whatever kind."""
    content, address, _ = buffer
    good = (address, 16)
    bad = [*IMPOSSIBLE, (address, 0), (address, -5), (address, 2**60), (edge + mmap.PAGESIZE, 4), (edge, 2 * mmap.PAGESIZE)]
    for one in bad:
        for ranges in ([one, good, good], [good, one, good], [good, good, one], [one, one, good], [one]):
            expected = [content[:16] if a_range is good else None for a_range in ranges]

            assert own.read_many(ranges) == expected, ranges


@pytest.mark.parametrize("count", [0, 1, MAX_RANGES - 1, MAX_RANGES, MAX_RANGES + 1, 3 * MAX_RANGES + 7])
def test_any_number_of_ranges_is_answered_in_order(own, buffer, count):
    """More than one system call takes, too."""
    content, address, _ = buffer
    ranges = [(address + index % 8000, 1 + index % 5) for index in range(count)]

    assert own.read_many(ranges) == [content[index % 8000 :][: 1 + index % 5] for index in range(count)]


def test_many_bad_ranges_are_answered_in_order(own, buffer):
    """Every third, over more than one system call."""
    content, address, _ = buffer
    ranges = [(8 if index % 3 == 0 else address + index, 4) for index in range(MAX_RANGES + 500)]
    expected = [None if index % 3 == 0 else content[index : index + 4] for index in range(MAX_RANGES + 500)]

    assert own.read_many(ranges) == expected


def test_ranges_that_are_large_together_are_read(own, monkeypatch, buffer):
    """The bound is on what is allocated at once, not on what is asked for."""
    monkeypatch.setattr(memory_module, "MAX_READ", 1000)
    content, address, _ = buffer
    ranges = [(address, 600), (address + 1, 600), (address + 2, 1000), (address + 3, 1001), (address + 4, 1)]
    expected = [content[:600], content[1:601], content[2:1002], None, content[4:5]]

    assert own.read_many(ranges) == expected


def test_another_process_is_read():
    """A child says where its bytes are; they are read from outside."""
    program = (
        "import ctypes, sys; b = ctypes.create_string_buffer(b'here I am');"
        "print(ctypes.addressof(b), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        memory = ProcessMemory(child.pid)
        address = int(child.stdout.readline())

        assert memory.read(address, 9) == b"here I am"
        child.communicate()
    with pytest.raises(NoSuchProcess, match=str(child.pid)):
        memory.read(address, 9)
    with pytest.raises(NoSuchProcess):
        memory.read_many([(address, 9)] * 3)


def test_zombie_has_no_memory():
    """It ended: that it was not collected does not matter."""
    child = subprocess.Popen(["true"], stdin=subprocess.DEVNULL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    try:
        with pytest.raises(NoSuchProcess):
            ProcessMemory(child.pid).read(0x400000, 8)
    finally:
        child.wait()


@pytest.mark.parametrize(
    ("number", "expected"),
    [(1, PermissionDenied), (38, PermissionDenied), (3, NoSuchProcess), (12, OSError), (14, BadAddress)],
)
def test_refusals_of_the_kernel_are_told_apart(own, monkeypatch, number, expected):
    """EPERM, ENOSYS (a container's filter), ESRCH, ENOMEM, EFAULT."""

    def refuse(*arguments):
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(memory_module, "_process_vm_readv", refuse)

    with pytest.raises(expected):
        own.read(0x1000, 8)


def test_error_of_a_bad_address_says_where():
    """One line, for a person."""
    assert str(BadAddress(0x1234, 8)) == "no readable memory at 0x1234 (8 bytes)"
