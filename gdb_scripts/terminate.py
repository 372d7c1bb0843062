"""``-ts-terminate``: have a thread that waits in a system call end by itself, without going back to whoever made the call."""

from __future__ import annotations

import time
from typing import Any

import gdb

from .command import command
from .guard import attached
from .machine import read_number, read_register, write_number, write_registers
from .system_call import EINTR, SYSCALL_SIZE, waits
from .victim import Victim, check_thread

EXIT = 60  # exit(2): this thread alone; exit_group is another one


@command("-ts-terminate")
def terminate(
    *, pid: int, tid: int, start_time: int, place: dict[str, int], python: dict[str, Any] | None
) -> dict[str, Any]:
    """Attach, and if the thread still is at that place, set it on its way out; detach.

    ``python`` is None for a thread without Python: it makes the call ``exit`` in place of the one it waits in.
    """
    began = time.monotonic()
    with attached(tid):
        check_thread(pid, tid, start_time)
        moved = not (
            waits()
            and read_register("orig_rax") == place["number"]
            and read_register("rsp") == place["stack_pointer"]
            and read_register("rip") == place["program_counter"]
        )
        if not moved and python is None:
            _exit()
        elif not moved and python is not None:
            moved = not _redirect(**python)
    return {"moved": moved, "stopped_seconds": time.monotonic() - began}


def _exit() -> None:
    write_registers(orig_rax=-1, rip=read_register("rip") - SYSCALL_SIZE, rax=EXIT)


def _redirect(
    *,
    victim: dict[str, Any],
    gil: list[list[int]],
    stores: list[list[int]],
    stack: int,
    content: str,
    program_counter: int,
) -> bool:
    """Have the thread run the chain of functions in ``content``; False if the GIL is not as expected: [address, size, value].

    Leaves behind: ``stores`` ([address, size, value]), all harmless to a thread that goes on instead.
    """
    subject = Victim(**victim)
    subject.check()
    if any(read_number(address, size) != value for address, size, value in gil):
        return False
    inferior = gdb.selected_inferior()
    inferior.write_memory(stack, bytes.fromhex(content))
    if bytes(inferior.read_memory(stack, len(content) // 2)).hex() != content:
        raise gdb.GdbError("what was written to the stack is not there")
    subject.withdraw()
    for address, size, value in stores:
        write_number(address, value, size)
    # orig_rax: the kernel shall not start the call again, from wherever the thread then is
    write_registers(rax=-EINTR, orig_rax=-1, rsp=stack, rip=program_counter)
    return True
