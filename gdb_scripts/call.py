"""Have the stopped thread call one C function and then return -1 from where it stands, all by itself, after the detach.

gdb's own way to call a function keeps the thread traced meanwhile and crashes it if gdb dies before the function returns. Here
only registers and sixteen bytes of free stack are written; the thread does the rest at full speed, and nobody needs to watch.
"""

from __future__ import annotations

import gdb

from .machine import WORD, write_number, write_registers

STACK_ALIGNMENT = 16


def call_then_return(function: int, argument: int, *, return_minus_one: int, stack_pointer: int) -> None:
    """Make the thread run ``function(argument)`` and then return -1 to the caller of the function it has just entered.

    The thread must stand at the first instruction of a function that returns an int, so that the return address is on top of
    its stack. ``return_minus_one`` is the address of the two instructions ``mov $-1,%eax; ret`` anywhere in its code.

    Raises:
        gdb.GdbError: the stack is not aligned as at the entry of a function; nothing was changed.
    """
    # The called function must find the stack aligned as after a call, that is 8 beyond a multiple of 16. One return address
    # to the two instructions is enough where the entered function was not aligned itself; mostly it takes two, and the thread
    # passes the instructions twice.
    misalignment = stack_pointer % STACK_ALIGNMENT
    if misalignment not in (0, WORD):
        raise gdb.GdbError(f"mismatch: the stack pointer {stack_pointer:#x} is not that of a function's entry")
    top = stack_pointer
    for _ in range(2 if misalignment else 1):
        top -= WORD
        write_number(top, return_minus_one)
    write_registers(rsp=top, rdi=argument, rip=function)
