"""ptrace(2) itself, for what gdb does too late or bit by bit: should it be killed before it is done, the target might die.

The calls come from gdb's own process, which is the tracer. Where gdb's Python has no ctypes it is gdb that does it, later.
"""

from __future__ import annotations

import os

import gdb

try:
    import ctypes

    _libc = ctypes.CDLL(None, use_errno=True)
    _libc.ptrace.restype = ctypes.c_long
    _libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
except (ImportError, OSError, AttributeError):
    AVAILABLE = False
else:
    AVAILABLE = True

# linux/ptrace.h
_POKEUSER, _GETREGS, _SETREGS = 6, 12, 13

# gdb 10 knows it by its old name only: Python constants of gdb 11 tell.
_FORGET_REGISTERS = "maintenance flush register-cache" if hasattr(gdb, "BP_HARDWARE_BREAKPOINT") else "flushregs"

# offsetof(struct user, u_debugreg[6]), which of the breakpoints was hit; [7], which are on.
_DEBUG_STATUS, _DEBUG_CONTROL = 848 + 6 * 8, 848 + 7 * 8

# struct user_regs_struct, x86-64.
_REGISTERS = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi", "orig_rax"),
    *("rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
)


def disarm() -> None:
    """Switch the hardware breakpoints of the stopped, selected thread off until gdb sets some again; forget which was hit.

    gdb itself writes debug registers only when it lets a thread go on, even those of breakpoints that are deleted. And it
    leaves the status register as it is: at the next attach, a signal that comes before the SIGSTOP then looks to gdb
    (13.1 and 17.2, handle_signal_stop in infrun.c) like a late hit of a breakpoint, and the attach never ends.
    """
    if AVAILABLE:
        for register in (_DEBUG_CONTROL, _DEBUG_STATUS):
            _libc.ptrace(_POKEUSER, gdb.selected_thread().ptid[1], register, 0)  # fails where the thread was killed


def exchange_registers(values: dict[str, int]) -> None:
    """Set all these registers of the selected thread in one system call. Needs ``AVAILABLE``."""
    registers = (ctypes.c_ulong * len(_REGISTERS))()
    _ptrace(_GETREGS, registers)
    for name, value in values.items():
        registers[_REGISTERS.index(name)] = value
    _ptrace(_SETREGS, registers)
    gdb.execute(_FORGET_REGISTERS, to_string=True)


def _ptrace(request: int, registers: ctypes.Array[ctypes.c_ulong]) -> None:
    if _libc.ptrace(request, gdb.selected_thread().ptid[1], 0, ctypes.addressof(registers)) < 0:
        raise gdb.GdbError(f"ptrace: {os.strerror(ctypes.get_errno())}")
