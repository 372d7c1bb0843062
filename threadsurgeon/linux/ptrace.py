"""The one thing we ever do with ptrace(2) ourselves: take hardware breakpoints out of a thread whose debugger died.

The kernel leaves the debug registers of a thread set when its tracer dies. The next time the thread comes by such an
address it gets a SIGTRAP that nobody catches, and the process dies. x86-64 only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time

from threadsurgeon.errors import DebuggerFailed, NoSuchThread, PermissionDenied

# linux/ptrace.h
_PTRACE_POKEUSER = 6
_PTRACE_DETACH = 17
_PTRACE_SEIZE = 0x4206
_PTRACE_INTERRUPT = 0x4207
_WALL = 0x40000000  # waitpid(2): also threads that are not our children

# offsetof(struct user, u_debugreg): 7 is the control register, 6 the status, 0 to 3 the addresses.
_DEBUG_REGISTERS = 848
_CONTROL_FIRST = (7, 0, 1, 2, 3, 6)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]


def _ptrace(request: int, tid: int, address: int = 0, data: int = 0) -> None:
    if _libc.ptrace(request, tid, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def clear_debug_registers(tid: int, *, timeout_seconds: float = 5.0) -> None:
    """Stop the thread for an instant, clear its debug registers, and let it go.

    Tries again while another tracer still holds the thread: a debugger that is just dying lets go a moment later.

    Raises:
        NoSuchThread: it ended.
        PermissionDenied: another tracer keeps it, or the kernel does not let us.
        DebuggerFailed: it did not stop in time, as in an uninterruptible wait.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            _ptrace(_PTRACE_SEIZE, tid)
            break
        except OSError as error:
            if error.errno == errno.ESRCH:
                raise NoSuchThread(f"thread {tid} ended") from None
            if time.monotonic() >= deadline:
                raise PermissionDenied(f"thread {tid} cannot be traced to clear its debug registers: {error}") from None
        time.sleep(0.0002)
    try:
        _ptrace(_PTRACE_INTERRUPT, tid)
        while os.waitpid(tid, _WALL | os.WNOHANG) == (0, 0):
            if time.monotonic() >= deadline:
                raise DebuggerFailed(f"thread {tid} did not stop in {timeout_seconds} s to clear its debug registers")
            time.sleep(0.0002)
        for register in _CONTROL_FIRST:
            _ptrace(_PTRACE_POKEUSER, tid, _DEBUG_REGISTERS + 8 * register)
        _ptrace(_PTRACE_DETACH, tid)
    except (ChildProcessError, ProcessLookupError):
        raise NoSuchThread(f"thread {tid} ended") from None
