"""``-ts-try`` and ``-ts-tried``: attach to a process of our own, as to a target, and let it run into a hardware breakpoint.

Some virtual machines and sandboxes let a debugger set the debug registers, and never stop there.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import gdb

from .command import command
from .guard import attached, hardware_breakpoints, select_thread
from .machine import read_register, write_register
from .resume import run_after_answer
from .system_call import SYSCALL_SIZE, waits

GETPID = 39  # x86-64

_undo = ExitStack()
_behind = 0


@command("-ts-try")
def try_breakpoint(*, pid: int) -> dict[str, Any]:
    """Let the process, which waits in a system call, execute a harmless one instead: does it stop right behind it?

    It runs once this is answered; whoever ends the process ends the waiting for a stop, too.
    Leaves behind: a wrong result of the call that the process waited in.
    """
    global _undo, _behind
    with ExitStack() as undo:
        undo.enter_context(attached(pid))
        if not waits():
            raise gdb.GdbError("it does not wait in a system call")
        _behind = read_register("rip")
        write_register("rax", GETPID)
        write_register("orig_rax", -1)  # the kernel shall not start the old one again
        write_register("rip", _behind - SYSCALL_SIZE)
        undo.enter_context(hardware_breakpoints([_behind]))
        run_after_answer(lambda: None)
        _undo = undo.pop_all()
    return {}


@command("-ts-tried")
def tried() -> dict[str, Any]:
    """Return whether the process, which has stopped or ended, came to the breakpoint; detach."""
    with _undo:
        if not gdb.selected_inferior().threads():
            return {"hit": False}
        select_thread()
        return {"hit": read_register("rip") == _behind}
