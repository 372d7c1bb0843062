"""``-ts-try`` and ``-ts-tried``: attach to a process of our own, as to a target, and let it run into a hardware breakpoint.

Some virtual machines and sandboxes let a debugger set the debug registers, and never stop there.
"""

from __future__ import annotations

from typing import Any

import gdb

from .command import command
from .guard import attached, hardware_breakpoints
from .machine import read_register, write_register
from .system_call import SYSCALL_SIZE, waits

GETPID = 39  # x86-64

_hit = False


@command("-ts-try")
def try_breakpoint(*, pid: int) -> dict[str, Any]:
    """Let the process, which waits in a system call, execute a harmless one instead: does it stop right behind it?

    Whoever ends the process ends our waiting, too. As it runs meanwhile, gdb drops what this command returns.
    Leaves behind: a wrong result of the call that the process waited in.
    """
    global _hit
    _hit = False
    with attached(pid):
        if not waits():
            raise gdb.GdbError("it does not wait in a system call")
        behind = read_register("rip")
        write_register("rax", GETPID)
        write_register("orig_rax", -1)  # the kernel shall not start the old one again
        write_register("rip", behind - SYSCALL_SIZE)
        with hardware_breakpoints([behind]):
            gdb.execute("continue", to_string=True)
            _hit = bool(gdb.selected_inferior().threads()) and read_register("rip") == behind
    return {}


@command("-ts-tried")
def tried() -> dict[str, Any]:
    """Return whether the process came to the breakpoint."""
    return {"hit": _hit}
