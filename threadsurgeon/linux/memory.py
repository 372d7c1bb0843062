"""Read another process's memory while it runs, many ranges in one system call."""

from __future__ import annotations

import ctypes
import errno
import os
from array import array
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any, Protocol

from threadsurgeon.errors import NoSuchProcess, PermissionDenied, ThreadsurgeonError

# IOV_MAX: the most ranges that process_vm_readv(2) takes in one call (UIO_MAXIOV in Linux).
MAX_RANGES = 1024
# Bounds what a corrupt size field can make us allocate. The largest thing we read at once is a big dict's entries.
MAX_READ = 64 * 1024 * 1024
SMALL_READ = 4096
# What is read at once goes through a buffer that is kept up to this size: the kernel clears each page of a new one.
MAX_KEPT = 4 * 1024 * 1024


class BadAddress(ThreadsurgeonError):
    """The target has no readable memory there (any more): normal while it runs, the reader looks again."""

    def __init__(self, address: int, size: int) -> None:
        super().__init__(f"no readable memory at {address:#x} ({size} bytes)")
        self.address = address
        self.size = size


class Memory(Protocol):
    """What the readers in ``cpython`` need: a live process, bytes in a test, a core file are the same to them."""

    def read(self, address: int, size: int) -> bytes:
        """Return exactly ``size`` bytes, or raise BadAddress."""

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """Return the bytes of each (address, size), None for each that cannot be read."""


def read_each(memory: Memory, ranges: Sequence[tuple[int, int]]) -> list[bytes | None]:
    """Answer ``read_many`` by a ``read`` for each: for what is no system call away."""
    found: list[bytes | None] = []
    for address, size in ranges:
        try:
            found.append(memory.read(address, size))
        except BadAddress:
            found.append(None)
    return found


_libc = ctypes.CDLL(None, use_errno=True)
_process_vm_readv = _libc.process_vm_readv
_process_vm_readv.restype = ctypes.c_ssize_t
_process_vm_readv.argtypes = [
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_ulong,
]


class ProcessMemory:
    """The memory of a running process, by process_vm_readv(2): no ptrace, no stop, nothing written."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._buffer: Any = ctypes.create_string_buffer(SMALL_READ)  # a part of it is bytes, which typeshed does not know
        # Following a chain takes thousands of small reads, one after the other: they share what describes them.
        self._local = array("Q", (ctypes.addressof(self._buffer), 0))
        self._remote = array("Q", (0, 0))

    def read(self, address: int, size: int) -> bytes:
        """Return exactly ``size`` bytes.

        Raises:
            BadAddress: nothing readable there.
            NoSuchProcess: the process ended.
            PermissionDenied: the kernel does not let us.
        """
        if 0 < size <= SMALL_READ and 0 < address < 1 << 63:
            self._local[1] = self._remote[1] = size
            self._remote[0] = address
            if _process_vm_readv(self.pid, self._local.buffer_info()[0], 1, self._remote.buffer_info()[0], 1, 0) == size:
                content: bytes = self._buffer[:size]
                return content
        (data,) = self.read_many([(address, size)])
        if data is None:
            raise BadAddress(address, size)
        return data

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """Return the bytes of each (address, size), None for each that cannot be read; errors as ``read``."""
        results: list[bytes | None] = []
        while len(results) < len(ranges):
            batch = ranges[len(results) : len(results) + MAX_RANGES]
            if not _is_possible(batch):
                batch = _possible_beginning(batch)
            if batch:
                results += self._read_batch(batch)
            else:
                results.append(None)
        return results

    def _read_batch(self, batch: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """Return the bytes of the ranges up to the first that fails, and None for that one."""
        sizes = [size for _, size in batch]
        total = sum(sizes)
        buffer = self._provide_buffer(total)
        local = array("Q", (ctypes.addressof(buffer), total))
        remote = array("Q", chain.from_iterable(batch))
        count = _process_vm_readv(
            self.pid, local.buffer_info()[0], 1, remote.buffer_info()[0], len(batch), 0
        )
        if count < 0:
            error = ctypes.get_errno()
            if error == errno.ESRCH:
                raise NoSuchProcess(f"process {self.pid} ended while we read it")
            if error == errno.EPERM:
                raise PermissionDenied(f"the kernel does not let us read the memory of process {self.pid}")
            if error == errno.ENOSYS:
                raise PermissionDenied("process_vm_readv is not available here (seccomp, or the kernel)")
            if error != errno.EFAULT:
                raise OSError(error, os.strerror(error))
            count = 0
        results: list[bytes | None] = [
            buffer[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True) if end <= count
        ]
        if len(results) < len(batch):
            # Everything before this range was read; what follows it was not tried.
            results.append(None)
        return results

    def _provide_buffer(self, size: int) -> Any:
        """Return a buffer of at least this many bytes."""
        if size <= len(self._buffer):
            return self._buffer
        buffer = ctypes.create_string_buffer(size)
        if size <= MAX_KEPT:
            self._buffer = buffer
            self._local[0] = ctypes.addressof(buffer)
        return buffer


def _is_possible(batch: Sequence[tuple[int, int]]) -> bool:
    """Say whether the kernel may be asked for the ranges: no size or address that only a damaged field can have."""
    addresses, sizes = zip(*batch, strict=True)
    possible: bool = (
        min(sizes) > 0 and sum(sizes) <= MAX_READ and min(addresses) > 0 and max(addresses) < 1 << 63
    )
    return possible


def _possible_beginning(batch: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
    total = 0
    for number, (address, size) in enumerate(batch):
        total += size
        if not (size > 0 and 0 < address < 1 << 63) or total > MAX_READ:
            return batch[:number]
    return batch
