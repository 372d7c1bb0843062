"""Registers and memory of the stopped thread, as integers."""

from __future__ import annotations

import gdb

from . import at_once

WORD = 8


def read_register(name: str) -> int:
    """Return the register as a signed 64-bit number."""
    gdb.newest_frame().select()
    return int(gdb.parse_and_eval(f"(long)${name}"))


def write_register(name: str, value: int) -> None:
    """Set the register. Leaves behind: the new value."""
    # gdb means the registers of the selected frame, and once the stack pointer or the program counter has been changed it may
    # have selected another one than the innermost: the next write would go to where that frame has saved the register.
    gdb.newest_frame().select()
    gdb.parse_and_eval(f"${name} = {value}")


def write_registers(**values: int) -> None:
    """Set registers that make sense only together, so that no death of gdb can come in between.

    Where gdb's Python cannot do that, one after the other, in this order.
    """
    if at_once.AVAILABLE:
        at_once.exchange_registers(values)
        return
    for name, value in values.items():
        write_register(name, value)


def read_number(address: int, size: int = WORD) -> int:
    """Return the unsigned number of that many bytes."""
    return int.from_bytes(bytes(gdb.selected_inferior().read_memory(address, size)), "little")


def write_number(address: int, value: int, size: int = WORD) -> None:
    """Write the unsigned number. Leaves behind: the new value."""
    gdb.selected_inferior().write_memory(address, value.to_bytes(size, "little"))
