"""What the arguments of a system call point to, read from the target's memory while the thread sits in the call."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from threadsurgeon.linux.memory import BadAddress, Memory

MAX_DESCRIPTORS = 1024  # of poll and select: FD_SETSIZE
MAX_PATH = 4096  # PATH_MAX
PAGE = 4096
TIMESPEC = struct.Struct("<qq")
_POLLFD = struct.Struct("<iHH")


class Timeout(NamedTuple):
    """When a call returns by itself: ``seconds`` after it began, or with a ``clock`` when that shows ``seconds``."""

    seconds: float
    clock: int | None = None


class ReadAhead:
    """A memory of which some ranges are read at once, before each is asked for."""

    def __init__(self, memory: Memory, ranges: Iterable[tuple[int, int]]) -> None:
        self._memory = memory
        wanted = list(ranges)
        self._known = dict(zip(wanted, memory.read_many(wanted), strict=True))

    def read(self, address: int, size: int) -> bytes:
        """Return exactly ``size`` bytes, or raise BadAddress."""
        content = self._known.get((address, size))
        return self._memory.read(address, size) if content is None else content

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """Return the bytes of each (address, size), None for each that cannot be read."""
        return self._memory.read_many(ranges)


def read_time(memory: Memory, address: int, *, unit: float = 1e-9) -> float | None:
    """Return the seconds in a ``struct timespec``, or with ``unit`` 1e-6 in a ``struct timeval``; None if unreadable."""
    try:
        seconds, fraction = TIMESPEC.unpack(memory.read(address, TIMESPEC.size))
    except BadAddress:
        return None
    return float(seconds + fraction * unit)


def read_timeout(memory: Memory, address: int, *, clock: int | None = None, unit: float = 1e-9) -> Timeout | None:
    """Return the timeout that a pointer leads to; None for none."""
    seconds = read_time(memory, address, unit=unit) if address else None
    return None if seconds is None else Timeout(seconds, clock)


def count_milliseconds(argument: int) -> Timeout | None:
    """Return the timeout of a poll or epoll_wait: an int, negative for none."""
    milliseconds = signed(argument)
    return None if milliseconds < 0 else Timeout(milliseconds / 1000)


def seconds_left(timeout: Timeout, waited: float | None) -> float | None:
    """Return how long until the call returns by itself; None where that would take knowing how long it has waited."""
    if timeout.clock is not None:
        return max(0.0, timeout.seconds - time.clock_gettime(timeout.clock))
    return None if waited is None else max(0.0, timeout.seconds - waited)


def read_poll(memory: Memory, address: int, count: int) -> list[int]:
    """Return the descriptors of an array of ``struct pollfd``."""
    count = min(count, MAX_DESCRIPTORS)
    try:
        content = memory.read(address, count * _POLLFD.size) if count else b""
    except BadAddress:
        return []
    return [number for number, _, _ in _POLLFD.iter_unpack(content) if number >= 0]


def read_sets(memory: Memory, addresses: tuple[int, ...], count: int) -> list[int]:
    """Return the descriptors below ``count`` that are in any of some ``fd_set``s."""
    count = min(count, MAX_DESCRIPTORS)
    size = (count + 63) // 64 * 8  # whole words, as the kernel reads them
    members = 0
    for address in addresses:
        try:
            members |= int.from_bytes(memory.read(address, size), "little") if address and size else 0
        except BadAddress:
            continue
    return [number for number in range(count) if members >> number & 1]


def read_path(memory: Memory, address: int) -> str | None:
    """Return the text that ends with a zero byte; None where it is not readable."""
    path = b""
    for start, size in _pages(address):
        try:
            path += memory.read(start, size)
        except BadAddress:
            return None
        text, end, _ = path.partition(b"\0")
        if end:
            return text.decode(errors="replace")
    return None


def _pages(address: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of MAX_PATH bytes: what follows the page that a path ends in may not be mapped."""
    end = address + MAX_PATH
    while address < end:
        size = min(PAGE - address % PAGE, end - address)
        yield address, size
        address += size


def signed(argument: int) -> int:
    """Return an argument of type ``int``, of which only the lower half of the register counts."""
    return (argument & 0xFFFFFFFF ^ 0x80000000) - 0x80000000
