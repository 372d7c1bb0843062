"""In which system call a thread is blocked, and whether it has been ever since: then nothing that is its own has changed."""

from __future__ import annotations

from typing import NamedTuple

from threadsurgeon.errors import NoSuchThread
from threadsurgeon.linux.process import FUTEX, SystemCall, read_cpu_time, read_system_call

COMMAND = 0x7F  # without FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME
# FUTEX_WAIT, FUTEX_LOCK_PI, FUTEX_WAIT_BITSET, FUTEX_LOCK_PI2 (include/uapi/linux/futex.h)
WAITS = frozenset({0, 6, 9, 13})


class Blocked(NamedTuple):
    """A thread in a system call. ``cpu_seconds``: what it had used up to then; None where that was not asked or not told."""

    call: SystemCall
    cpu_seconds: float | None

    @property
    def futex(self) -> int:
        """The address of the futex on which it sleeps, 0 if it does anything else."""
        return self.call.arguments[0] if self.call.number == FUTEX and self.call.arguments[1] & COMMAND in WAITS else 0

    @property
    def timed(self) -> bool:
        """Whether it wakes from the futex by itself after some time."""
        return self.call.arguments[3] != 0

    def has_slept_since(self, earlier: Blocked | None) -> bool:
        """Say whether the thread has not run at all since an earlier look."""
        return self.cpu_seconds is not None and self == earlier


def read_blocked(pid: int, tid: int) -> Blocked | None:
    """Return where the thread is blocked, None if it runs, has ended, or the kernel does not tell."""
    try:
        call = read_system_call(pid, tid)
    except NoSuchThread:
        return None
    if call is None:
        return None
    # In this order: a thread that is blocked at the second look, and has then used no more CPU than after the first, was
    # blocked all the while. For what is not a futex the question is seldom asked, and a file read costs as much as the other.
    blocked = Blocked(call, None)
    return blocked._replace(cpu_seconds=read_cpu_time(pid, tid)) if blocked.futex else blocked
