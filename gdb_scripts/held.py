"""One thread in our hands over several commands: attached all the time, stopped or running."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import gdb

from .guard import attached, hardware_breakpoints
from .resume import run_after_answer
from .victim import Victim


class Held:
    """A thread in our hands. ``undo`` lets go of it, after whatever was put on top of that."""

    def __init__(self, victim: Victim) -> None:
        self.victim = victim
        self.undo = ExitStack()
        self.breakpoints = ExitStack()
        self.since: float | None = time.monotonic()  # when it stopped; None while it runs
        self.continued = 0.0
        self.stopped_seconds = 0.0
        self.armed_seconds = 0.0
        self.armed = False
        self.released = False

    def begin(self) -> None:
        """Attach; undone by ``release``.

        Raises:
            gdb.GdbError: it is not the thread that was meant. It goes on as it was, here and after any other error.
        """
        with self.undo:
            self.undo.enter_context(attached(self.victim.tid))
            self.victim.check()
            gdb.events.stop.connect(self._on_stop)
            self.undo.callback(gdb.events.stop.disconnect, self._on_stop)
            self.undo = self.undo.pop_all()

    def _on_stop(self, _event: gdb.StopEvent) -> None:
        if self.since is None:
            self.since = time.monotonic()
            if self.armed:
                self.armed_seconds += self.since - self.continued

    def watch(self, addresses: list[int]) -> None:
        """Have it stop at these addresses, until ``breakpoints`` is closed."""
        self.breakpoints.enter_context(hardware_breakpoints(addresses))
        self.armed = True

    def run(self) -> None:
        """Let it run, as soon as the command is answered."""
        run_after_answer(self._on_continued)

    def _on_continued(self) -> None:
        self.continued = time.monotonic()
        self.stopped_seconds += self.continued - (self.since or self.continued)
        self.since = None

    def disarm(self) -> None:
        """Take the breakpoints away from the stopped thread.

        gdb clears the debug registers only when it lets the thread go on: should it be killed before, they are still set.
        """
        self.breakpoints.close()
        self.armed = False

    def release(self) -> dict[str, Any]:
        """Detach, and return how long it was stopped and armed in all."""
        self.released = True
        with self.undo:
            self.disarm()
        if self.since is not None:
            self.stopped_seconds += time.monotonic() - self.since
            self.since = None
        return {"stopped_seconds": self.stopped_seconds, "armed_seconds": self.armed_seconds}


_held: Held | None = None


def keep(held: Held) -> None:
    """Attach to the thread, and keep it for the commands to come.

    Raises:
        gdb.GdbError: another one is held, or it is not the thread that was meant.
    """
    global _held
    if _held is not None:
        raise gdb.GdbError("a thread is held already")
    held.begin()
    _held = held


@contextmanager
def in_hand() -> Iterator[Held]:
    """Give one command the held thread. A command that fails lets go of it."""
    global _held
    if _held is None:
        raise gdb.GdbError("no thread is held")
    held = _held
    try:
        yield held
    except BaseException:
        held.release()
        raise
    finally:
        if held.released:
            _held = None
