"""Keeps the kernel's perf events switched on, so that setting a hardware breakpoint does not wait for switching them on.

A hardware breakpoint is a perf event. The first one on a machine makes the kernel wait for an RCU grace period
(account_event in kernel/events/core.c), some 10 ms: too long for a thread that is stopped, perhaps holding the GIL.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

_PERF_EVENT_OPEN = 298  # x86-64
_FLAG_CLOEXEC = 8
# struct perf_event_attr, first version: PERF_TYPE_SOFTWARE, its size, PERF_COUNT_SW_DUMMY; disabled, without kernel and
# hypervisor, which needs no privilege.
_DUMMY_EVENT = struct.pack("<IIQQQQQ", 1, 64, 9, 0, 0, 0, 1 | 1 << 5 | 1 << 6).ljust(64, b"\0")

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


@contextmanager
def perf_events_in_use() -> Iterator[None]:
    """Hold an event that counts nothing, on this very thread. Where the kernel refuses it, things are only slower."""
    descriptor = _syscall(
        ctypes.c_long(_PERF_EVENT_OPEN),
        ctypes.c_char_p(_DUMMY_EVENT),
        ctypes.c_long(0),
        ctypes.c_long(-1),
        ctypes.c_long(-1),
        ctypes.c_long(_FLAG_CLOEXEC),
    )
    try:
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)
