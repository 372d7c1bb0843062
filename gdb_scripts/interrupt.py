"""``-ts-arm`` and ``-ts-strike``: make a blocking call return early, and raise where CPython checks for signals.

Between the two commands the thread runs with hardware breakpoints: the one exposed moment. The session watches over it. What
is done at a breakpoint is done before the session hears of it.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import gdb

from .call import call_then_return
from .command import command
from .guard import attached, hardware_breakpoints, select_thread
from .machine import read_register
from .resume import run_after_answer
from .system_call import interrupt_system_call
from .victim import Victim


class Armed:
    """A thread that runs towards our breakpoints."""

    def __init__(self, victim: Victim, functions: dict[str, int], also_pending: bool, way_out: dict[str, int]) -> None:
        self.victim = victim
        self.functions = {address: name for name, address in functions.items()}
        self.also_pending = also_pending
        self.way_out = way_out
        self.undo = ExitStack()  # the breakpoints, then the attachment
        self.previous = 0
        self.in_system_call = False
        self.began = self.continued = time.monotonic()
        self.stopped: float | None = None
        self.hit: str | None = None
        self.failure: BaseException | None = None

    def on_hit(self) -> None:
        """Raise where the thread has just stopped: at once, for as long as it is not done gdb's death may be the target's."""
        self.on_stop()
        try:
            if not self.is_delivered():
                # The thread holds the GIL here, at a place where CPython expects that an exception is raised.
                self.hit = self.functions[read_register("rip")]
                self.victim.withdraw()
                call_then_return(argument=self.victim.exception, stack_pointer=read_register("rsp"), **self.way_out)
        except BaseException as error:
            self.failure = error

    def on_continued(self) -> None:
        """Note when the thread went on."""
        self.continued = time.monotonic()

    def on_stop(self, _event: gdb.StopEvent | None = None) -> None:
        """Note when the thread stopped."""
        if self.stopped is None:
            self.stopped = time.monotonic()

    def is_delivered(self) -> bool:
        """Whether the exception was made pending, and the eval loop has raised it."""
        return self.also_pending and self.victim.pending() != self.victim.exception

    def report(self, result: str) -> dict[str, Any]:
        """Return what was done, and how long the thread was stopped in all, and armed while it ran; all is over now."""
        now = time.monotonic()
        stopped = now if self.stopped is None else self.stopped
        return {
            "result": result,
            "hit": self.hit,
            "in_system_call": self.in_system_call,
            "previous": self.previous,
            "stopped_seconds": self.continued - self.began + now - stopped,
            "armed_seconds": stopped - self.continued,
        }


_armed: Armed | None = None


@command("-ts-arm")
def arm(
    *, victim: dict[str, Any], functions: dict[str, int], also_pending: bool, set_none: int, return_minus_one: int
) -> dict[str, Any]:
    """Attach, interrupt the system call if the thread waits in one, and let it run until one of the functions: raise there.

    With ``also_pending`` the exception is made pending in the same stop, for a thread that is between two waits. "strike"
    reports it all.
    """
    global _armed
    if _armed is not None:
        raise gdb.GdbError("a thread is armed already")
    way_out = {"function": set_none, "return_minus_one": return_minus_one}
    armed = Armed(Victim(**victim), functions, also_pending, way_out)
    with armed.undo:
        armed.undo.enter_context(attached(armed.victim.tid))
        armed.victim.check()
        armed.previous = armed.victim.set_pending() if also_pending else armed.victim.pending()
        armed.in_system_call = interrupt_system_call()
        armed.undo.enter_context(hardware_breakpoints(list(armed.functions), armed.on_hit))
        gdb.events.stop.connect(armed.on_stop)
        armed.undo.callback(gdb.events.stop.disconnect, armed.on_stop)
        run_after_answer(armed.on_continued)
        armed.undo = armed.undo.pop_all()  # all went well: stay attached, and leave it to "strike" to undo
        _armed = armed
    return {}


@command("-ts-strike")
def strike() -> dict[str, Any]:
    """Take the breakpoints away from the stopped thread, detach, and say what came of it.

    ``result``: ``raised``; ``delivered`` (the pending exception is gone: the eval loop has raised it); ``exited`` (the
    thread is gone); or ``no-check``.
    """
    global _armed
    armed, _armed = _armed, None
    if armed is None:
        raise gdb.GdbError("no thread is armed")
    with armed.undo:
        if not gdb.selected_inferior().threads():
            return armed.report("exited")
        if armed.failure is not None:
            raise armed.failure
        select_thread()
        result = "raised" if armed.hit is not None else "delivered" if armed.is_delivered() else "no-check"
    return armed.report(result)
