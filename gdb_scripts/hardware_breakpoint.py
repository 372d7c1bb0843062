"""One hardware breakpoint in the traced thread, and what is done as soon as the thread has stopped at it."""

from __future__ import annotations

from collections.abc import Callable

import gdb

from . import at_once

OnHit = Callable[[], bool]
Remove = Callable[[], None]


def set_hardware_breakpoint(address: int, thread: int, on_hit: OnHit) -> Remove:
    """Stop gdb's thread of that number before it executes the address, if ``on_hit`` then says so; return what ends that.

    That is called before anybody is told of the stop; the debug registers are off by then, and gdb sets them again when it
    lets the thread go on. "thread": one that the victim starts meanwhile is traced as well, but is none of our business.

    Raises:
        gdb.error: the processor or the kernel has no more of them.
    """
    place = f"*{address:#x} thread {thread}"
    if hasattr(gdb, "BP_HARDWARE_BREAKPOINT"):
        return remover(_Breakpoint(place, on_hit))
    # gdb 10: Python cannot create one, nor see one that the command has created; but a condition can call Python.
    _on_hit[address] = on_hit
    gdb.execute(f"hbreak {place} if $ts_hit({address:#x})", to_string=True)
    number = int(gdb.parse_and_eval("$bpnum"))

    def remove() -> None:
        try:
            gdb.execute(f"delete {number}", to_string=True)
        except gdb.error:
            pass  # gdb itself has deleted it, as the thread ended

    return remove


def remover(breakpoint_: gdb.Breakpoint) -> Remove:
    """Return what deletes it, unless gdb itself has done so, as the thread ended."""

    def remove() -> None:
        if breakpoint_.is_valid():
            breakpoint_.delete()

    return remove


def _hit(on_hit: OnHit) -> bool:
    at_once.disarm()
    return on_hit()


class _Breakpoint(gdb.Breakpoint):
    def __init__(self, place: str, on_hit: OnHit) -> None:
        # "internal": gdb tells of others byte by byte, while the thread is stopped.
        super().__init__(place, type=gdb.BP_HARDWARE_BREAKPOINT, internal=True)
        self._on_hit = on_hit

    def stop(self) -> bool:
        return _hit(self._on_hit)


_on_hit: dict[int, OnHit] = {}


class _HitFunction(gdb.Function):
    def __init__(self) -> None:
        super().__init__("ts_hit")

    def invoke(self, *arguments: gdb.Value) -> bool:
        return _hit(_on_hit[int(arguments[0])])


_HitFunction()
