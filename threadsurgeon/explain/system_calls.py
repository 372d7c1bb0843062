"""What a thread waits for by the system call that it sits in: x86-64.

The numbers are those of arch/x86/entry/syscalls/syscall_64.tbl.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, NamedTuple

from threadsurgeon.explain.arguments import (
    TIMESPEC,
    Timeout,
    count_milliseconds,
    read_path,
    read_poll,
    read_sets,
    read_timeout,
    signed,
)
from threadsurgeon.linux.memory import BadAddress, Memory
from threadsurgeon.linux.process import FUTEX, Status, SystemCall, describe_process, read_link
from threadsurgeon.linux.restarted import RESTART

if TYPE_CHECKING:
    from threadsurgeon.linux.descriptors import Descriptors

NAMED = 3  # of many descriptors, these are named
FUTEX_PRIVATE, FUTEX_REALTIME = 128, 256
FUTEX_WAIT, FUTEX_LOCK_PI, FUTEX_LOCK_PI2 = 0, 6, 13
TIMER_ABSTIME = 1
F_SETLKW, F_OFD_SETLKW = 7, 38
P_PID, P_PIDFD = 1, 3
CLONE_VFORK = 0x4000
AT_FDCWD = -100


class Reason(NamedTuple):
    """Why a thread sits in a call: ``detail`` in words; ``timeout`` where the call returns by itself."""

    kind: str
    detail: str
    timeout: Timeout | None = None


class Surroundings:
    """What system calls of one process refer to. The descriptors are read when first asked for."""

    def __init__(self, status: Status, memory: Memory) -> None:
        self.status = status
        self.pid = status.tgid
        self.memory = memory

    @cached_property
    def descriptors(self) -> Descriptors:
        """The open descriptors."""
        from threadsurgeon.linux.descriptors import Descriptors  # brings socket with it: 3 ms

        return Descriptors(self.pid)


def explain_call(around: Surroundings, call: SystemCall) -> Reason:
    """Say what the call waits for."""
    explain = _CALLS.get(call.number)
    if explain is not None:
        return explain(around, call)
    return Reason("system-call", "waiting on after a stop" if call.number == RESTART else f"in system call {call.number}")


def find_times(call: SystemCall) -> Iterator[tuple[int, int]]:
    """Yield where the ``struct timespec`` is that a call which many threads sit in will be explained by."""
    place = _TIMES.get(call.number)
    if place is not None and call.arguments[place]:
        yield call.arguments[place], TIMESPEC.size


def _use_descriptor(kind: str, words: str, around: Surroundings, call: SystemCall) -> Reason:
    return Reason(kind, f"{words} {around.descriptors.describe(signed(call.arguments[0]))}")


def _wait_for_child(around: Surroundings, pid: int) -> Reason:
    from threadsurgeon.linux.children import describe_any_child, describe_child

    child = describe_child(around.status, pid) if pid > 0 else describe_any_child(around.pid)
    return Reason("child", f"waiting for {child}")


def _explain_wait4(around: Surroundings, call: SystemCall) -> Reason:
    return _wait_for_child(around, signed(call.arguments[0]))


def _explain_waitid(around: Surroundings, call: SystemCall) -> Reason:
    kind, number = call.arguments[0], signed(call.arguments[1])
    if kind == P_PIDFD:
        return Reason("child", f"waiting for {around.descriptors.describe(number)}")
    return _wait_for_child(around, number if kind == P_PID else -1)


def _explain_clone(around: Surroundings, call: SystemCall) -> Reason:
    flags = call.arguments[0]
    if call.number == 435:  # struct clone_args begins with them
        try:
            flags = int.from_bytes(around.memory.read(flags, 8), "little")
        except BadAddress:
            flags = 0
    if call.number != 58 and not flags & CLONE_VFORK:
        return Reason("system-call", "starting a thread or process")
    return Reason("child", "waiting for a new child to start its program (vfork)")


def _explain_futex(around: Surroundings, call: SystemCall) -> Reason:
    address, operation, _, timeout = call.arguments[:4]
    command = operation & ~(FUTEX_PRIVATE | FUTEX_REALTIME)
    clock: int | None = time.CLOCK_REALTIME if operation & FUTEX_REALTIME else time.CLOCK_MONOTONIC
    if command == FUTEX_WAIT:  # the only one with a relative timeout: futex(2)
        clock = None
    elif command == FUTEX_LOCK_PI:
        clock = time.CLOCK_REALTIME
    return Reason("lock", f"waiting for a lock (futex {address:#x})", read_timeout(around.memory, timeout, clock=clock))


def _explain_sleep(around: Surroundings, call: SystemCall) -> Reason:
    clock, flags, wanted, _ = call.arguments[:4] if call.number != 35 else (time.CLOCK_MONOTONIC, 0, *call.arguments[:2])
    known = signed(clock) if flags & TIMER_ABSTIME else None
    return Reason("sleep", "sleeping", read_timeout(around.memory, wanted, clock=known))


def _be_ready(around: Surroundings, numbers: list[int], timeout: Timeout | None) -> Reason:
    if not numbers:
        return Reason("sleep", "sleeping" if timeout else "waiting for a signal", timeout)
    described = [around.descriptors.describe(number) for number in numbers[:NAMED]]
    if len(numbers) > NAMED:
        described.append("…")
    count = "" if len(numbers) == 1 else f"{len(numbers)} descriptors: "
    return Reason("readiness", f"waiting for readiness of {count}{', '.join(described)}", timeout)


def _explain_poll(around: Surroundings, call: SystemCall) -> Reason:
    address, count, limit = call.arguments[:3]
    timeout = count_milliseconds(limit) if call.number == 7 else read_timeout(around.memory, limit)
    return _be_ready(around, read_poll(around.memory, address, count), timeout)


def _explain_select(around: Surroundings, call: SystemCall) -> Reason:
    count, *sets, limit = call.arguments[:5]
    timeout = read_timeout(around.memory, limit, unit=1e-6 if call.number == 23 else 1e-9)
    return _be_ready(around, read_sets(around.memory, tuple(sets), max(0, signed(count))), timeout)


def _explain_epoll(around: Surroundings, call: SystemCall) -> Reason:
    number, limit = signed(call.arguments[0]), call.arguments[3]
    timeout = read_timeout(around.memory, limit) if call.number == 441 else count_milliseconds(limit)
    watched = around.descriptors.list_watched(number)
    if not watched:
        return Reason("readiness", f"waiting for readiness of none of the descriptors of epoll {number}", timeout)
    return _be_ready(around, watched, timeout)


def _explain_connect(around: Surroundings, call: SystemCall) -> Reason:
    from threadsurgeon.linux.sockets import describe_address

    _, address, size = call.arguments[:3]
    try:
        found = describe_address(around.memory.read(address, min(signed(size), 128)))
    except BadAddress:
        found = None
    return Reason("connect", f"connecting to {found or around.descriptors.describe(signed(call.arguments[0]))}")


def _explain_flock(around: Surroundings, call: SystemCall) -> Reason:
    from threadsurgeon.linux.file_locks import find_lock_holder

    number = signed(call.arguments[0])
    holder = find_lock_holder(around.pid, around.descriptors.find_inode(number))
    named = "this process" if holder == around.pid else describe_process(holder) if holder else None
    by = f", held by {named}" if named else ""
    return Reason("file-lock", f"waiting for the lock on {around.descriptors.describe(number)}{by}")


def _explain_fcntl(around: Surroundings, call: SystemCall) -> Reason:
    if signed(call.arguments[1]) in (F_SETLKW, F_OFD_SETLKW):
        return _explain_flock(around, call)
    return _use_descriptor("system-call", "in fcntl of", around, call)


def _explain_open(around: Surroundings, call: SystemCall) -> Reason:
    """Openat and openat2 have the folder first; the latter's flags are in a struct."""
    arguments = call.arguments if call.number == 2 else call.arguments[1:]
    path = read_path(around.memory, arguments[0])
    if path is None:
        return Reason("open", "opening a file")
    if not path.startswith("/") and (call.number == 2 or signed(call.arguments[0]) == AT_FDCWD):
        with suppress(OSError):
            path = os.path.join(read_link(f"/proc/{around.pid}/cwd"), path)
    access = arguments[1] & os.O_ACCMODE
    purpose = {os.O_RDONLY: " for reading", os.O_WRONLY: " for writing"}.get(access, "") if call.number != 437 else ""
    return Reason("open", f"opening {path}{purpose}")


def _say(kind: str, detail: str, _around: Surroundings, _call: SystemCall) -> Reason:
    return Reason(kind, detail)


def _explain_signal(around: Surroundings, call: SystemCall) -> Reason:
    return Reason("signal", "waiting for a signal", read_timeout(around.memory, call.arguments[2]))


_TIMES = {FUTEX: 3, 35: 0, 230: 2}  # futex, nanosleep, clock_nanosleep

_Explain = Callable[[Surroundings, SystemCall], Reason]
_READ = partial(_use_descriptor, "read", "reading from")
_WRITE = partial(_use_descriptor, "write", "writing to")
_RECEIVE = partial(_use_descriptor, "receive", "receiving from")
_SEND = partial(_use_descriptor, "send", "sending to")
_ACCEPT = partial(_use_descriptor, "accept", "waiting for a connection at")
_SYNC = partial(_use_descriptor, "sync", "writing to disk:")
_PAUSE = partial(_say, "signal", "waiting for a signal")
_SEMAPHORE = partial(_say, "lock", "waiting for a System V semaphore")

_CALLS: dict[int, _Explain] = {
    **dict.fromkeys((0, 17, 19, 295, 327), _READ),  # read, pread64, readv, preadv, preadv2
    **dict.fromkeys((1, 18, 20, 296, 328, 40), _WRITE),  # write, pwrite64, writev, pwritev, pwritev2, sendfile
    **dict.fromkeys((45, 47, 299), _RECEIVE),  # recvfrom, recvmsg, recvmmsg
    **dict.fromkeys((44, 46, 307), _SEND),  # sendto, sendmsg, sendmmsg
    **dict.fromkeys((43, 288), _ACCEPT),  # accept, accept4
    **dict.fromkeys((74, 75, 277), _SYNC),  # fsync, fdatasync, sync_file_range
    **dict.fromkeys((2, 257, 437), _explain_open),  # open, openat, openat2
    **dict.fromkeys((7, 271), _explain_poll),  # poll, ppoll
    **dict.fromkeys((23, 270), _explain_select),  # select, pselect6
    **dict.fromkeys((232, 281, 441), _explain_epoll),  # epoll_wait, epoll_pwait, epoll_pwait2
    **dict.fromkeys((35, 230), _explain_sleep),  # nanosleep, clock_nanosleep
    **dict.fromkeys((56, 58, 435), _explain_clone),  # clone, vfork, clone3
    **dict.fromkeys((34, 130), _PAUSE),  # pause, rt_sigsuspend
    **dict.fromkeys((65, 220), _SEMAPHORE),  # semop, semtimedop
    16: partial(_use_descriptor, "device", "in ioctl of"),
    42: _explain_connect,
    61: _explain_wait4,
    72: _explain_fcntl,
    73: _explain_flock,
    128: _explain_signal,  # rt_sigtimedwait
    FUTEX: _explain_futex,
    247: _explain_waitid,
    426: partial(_say, "io-uring", "waiting for io_uring"),
}
