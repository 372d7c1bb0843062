"""Changes to the target that take themselves back: the attachment and the breakpoints, each a ``with`` block.

Left open after them: what was written to registers and memory on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import gdb

from . import at_once
from .hardware_breakpoint import set_hardware_breakpoint


@contextmanager
def attached(tid: int) -> Iterator[None]:
    """Trace that one thread, which must not be the leader of its process, and let it go again.

    Raises:
        gdb.error: the kernel refuses, or there is no such thread.
        gdb.GdbError: more than this one thread got traced.
    """
    try:
        gdb.execute(f"attach {tid}", to_string=True)
        traced = [thread.ptid[1] for thread in gdb.selected_inferior().threads()]
        if traced != [tid]:
            raise gdb.GdbError(f"more than one thread got traced: wanted {tid}, got {traced}")
        select_thread()
        yield
    finally:
        detach()


def select_thread() -> gdb.InferiorThread:
    """Select the traced thread, the first one: threads that it started itself while it was traced come later."""
    threads = gdb.selected_inferior().threads()
    if not threads:
        raise gdb.GdbError("gone: the thread ended")
    first = min(threads, key=lambda thread: thread.num)
    first.switch()
    return first


def detach() -> None:
    """Let go of whatever is traced; nothing to do where the thread has ended meanwhile."""
    if gdb.selected_inferior().threads():
        select_thread()
        at_once.disarm()
    if gdb.selected_inferior().pid:
        gdb.execute("detach", to_string=True)


@contextmanager
def hardware_breakpoints(addresses: Sequence[int], on_hit: Callable[[], None] | None = None) -> Iterator[None]:
    """Stop the traced thread before it executes any of the addresses; at most four, in its own debug registers.

    ``on_hit`` is called as soon as it has stopped at one, before anybody is told of it; it must not fail. All of them are
    switched off by then.

    Raises:
        gdb.error: the processor or the kernel has not that many.
    """
    number = select_thread().num

    def stop() -> bool:
        if on_hit is not None:
            on_hit()
        return True

    with ExitStack() as breakpoints:
        for address in addresses:
            breakpoints.callback(set_hardware_breakpoint(address, number, stop))
        yield
