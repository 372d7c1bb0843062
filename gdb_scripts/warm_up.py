"""``-ts-warm-up``: does once, to a dummy process, what costs gdb time the first time, so that no real thread waits for it."""

from __future__ import annotations

from typing import Any

from .command import command
from .guard import attached, hardware_breakpoints
from .machine import read_number, read_register, write_register


@command("-ts-warm-up")
def warm_up(*, pid: int) -> dict[str, Any]:
    """Attach to a process of our own with one thread, touch what an operation touches, and detach."""
    with attached(pid):
        counter = read_register("rip")
        read_number(counter)
        read_register("fs_base")
        write_register("rax", read_register("rax"))
        with hardware_breakpoints([counter]):
            pass
    return {}
