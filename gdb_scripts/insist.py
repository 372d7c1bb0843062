"""``-ts-insist``, ``-ts-press`` and ``-ts-relent``: raise again wherever an exception was caught, harder each time.

Every exception that passes a Python frame passes PyTraceBack_Here first, with the GIL held: a hardware breakpoint there
sees its way through the stack. Where it goes on to the frame's caller, nothing is done. Where its way ends, the code of
that frame has caught it: when the next one comes by, it is followed by another that meets the handler at its first
bytecode check, and when that did not help either, the handlers of the frame are left out.

Between the commands the thread runs with hardware breakpoints, and most hits are dealt with on the spot. "press" is for what
needs a real stop, "relent" ends it all. The session watches over it, and says when the thread has had the time to notice
or to catch what was raised. C code that never looks for it is cut, by the commands of ``cut_frames.py``.
"""

from __future__ import annotations

import time
from typing import Any

import gdb

from .call import call_then_return
from .code_objects import CodeReader
from .command import command
from .frames import Frame, FrameReader
from .guard import select_thread
from .hardware_breakpoint import OnHit, Remove, remover, set_hardware_breakpoint
from .held import Held, in_hand, keep
from .machine import read_register, write_register
from .system_call import interrupt_system_call
from .victim import Victim

# After the first, second, third time that code caught it, up to 1, 4, 16 exceptions follow the one that is raised next: one
# for the handler, and none for what the same function tidies up afterwards; but recursive code catches as often as it is deep.
FOLLOWERS = 4

# So far below the stack pointer that the functions that look into the table do not come there.
SCRATCH = 4096
# C code that called into Python has dropped so many: it drops them all.
MOST_DROPPED = 2
RUNNING, DONE, DEAF = "running", "done", "deaf"
GENERAL_REGISTERS = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", *(f"r{number}" for number in range(8, 16)))


class _Watchpoint(gdb.Breakpoint):
    def __init__(self, address: int, on_access: OnHit) -> None:
        place = f"*(long *) {address:#x} thread {select_thread().num}"
        super().__init__(place, gdb.BP_WATCHPOINT, wp_class=gdb.WP_ACCESS, internal=True)
        self._on_access = on_access

    def stop(self) -> bool:
        return self._on_access()


class Insistence(Held):
    """A thread under pressure, from "insist" to "relent"."""

    def __init__(self, victim: Victim, reader: FrameReader, options: dict[str, Any]) -> None:
        super().__init__(victim)
        self.reader = reader
        self.trace_back: int = options["trace_back"]
        self.checks = {address: name for name, address in options["checks"].items()}
        self.set_none: int = options["set_none"]
        self.return_minus_one: int = options["return_minus_one"]
        # Code objects that the exception shall reach, and where nothing more is raised: "end" for the last, "pass" for others.
        self.ends = {int(code): kind for code, kind in options["ends"].items()}
        self.codes = None if options["codes"] is None else CodeReader(**options["codes"])
        self.gentle: int = options["gentle"]  # how often code may catch it before its handlers are left out
        self.most_hits: int = options["most_hits"]

        self.traps: list[Remove] = []
        self.awaited = False  # ours is pending, or was raised and has not been seen yet
        self.last: Frame | None = None  # how far the exception has come
        self.caught: dict[int, int] = {}  # code object → how often an exception went no further
        self.followers: dict[int, int] = {}  # code object → how many more may follow in this round
        self.leave_out = 0  # the code object whose handlers are being left out
        self.bare: Frame | None = None  # the frame that was last left without handlers
        self.dropped = 0  # how often an exception went no further although there was no handler
        self.watched = 0  # the code object whose exception table is watched
        self.ended = False
        self.unheard = False  # what is pending was so in the round before
        self.deaf = False  # it sits in C code that does not look for what is pending
        self.skipped: list[tuple[int, int, int]] = []
        self.hits = self.hits_before = self.rounds = 0

    # --- hits that are dealt with on the spot ---

    def on_exception(self) -> bool:
        """An exception is about to pass a frame: PyTraceBack_Here(PyFrameObject *)."""
        self.hits += 1
        self.leave_out = 0
        if self.hits > self.most_hits:
            return True
        frame = self.reader.read_current(read_register("rdi"))
        if frame is None:
            return False  # C code adds an entry to a traceback
        pending = self.victim.pending() == self.victim.exception
        further = self.last is not None and frame.address in (self.last.address, self.last.parent)
        if frame.code in self.ends:
            if pending:
                self.victim.withdraw()
            self.awaited = False
            self.last = frame
            self.ended = self.ended or self.ends[frame.code] == "end"
            return self.ended
        if not further and (pending or not self.awaited):
            return False  # not ours
        if not pending:
            self.awaited = False
        self.last = frame
        times = self.caught.get(frame.code, 0)
        if times > self.gentle:
            return self._leave_out_handlers(frame)
        if times and self.followers.setdefault(frame.code, FOLLOWERS ** (times - 1)):
            self.followers[frame.code] -= 1
            self.victim.set_pending()
            self.awaited = True
        elif pending:  # a follower that met no handler: what this frame has to tidy up is not its business
            self.victim.withdraw()
            self.awaited = False
        return False

    def _leave_out_handlers(self, frame: Frame) -> bool:
        self.bare = frame
        self.skipped.append((frame.address, frame.code, frame.instruction))
        if self.codes is None:
            self.reader.drop_handlers(frame)
            return False
        self.leave_out = frame.code
        return self.watched != frame.code

    def on_look_up(self) -> bool:
        """The thread has just loaded the address of the exception table: let it look into one without handlers.

        The code object is not touched, nor is anything else that others see: only the register the address was loaded into,
        and free stack of the thread.
        """
        if self.leave_out:
            assert self.codes is not None
            original, content = self.codes.read_table(self.leave_out)
            replacement = (read_register("rsp") - SCRATCH - len(content)) // 16 * 16
            gdb.selected_inferior().write_memory(replacement, content)
            for register in GENERAL_REGISTERS:
                if read_register(register) == original:
                    write_register(register, replacement)
        return False

    def on_check(self) -> bool:
        """The thread asks for signals: a place to raise at, if nothing is on its way already."""
        return self.victim.pending() == self.victim.exception

    # --- real stops ---

    def begin(self) -> None:
        """Attach, and make the exception pending. What is pending, and the traps, are taken back by ``release``."""
        super().begin()
        try:
            self.undo.callback(self._withdraw)
            self._begin_round()
        except BaseException:
            self.release()
            raise

    def press(self, *, rested: bool) -> str:
        """Do what the stop is about, and say how to go on: see ``-ts-press``."""
        if not gdb.selected_inferior().threads() or self.ended or self.hits > self.most_hits or self.dropped >= MOST_DROPPED:
            return DONE
        select_thread()
        moved, self.hits_before = self.hits != self.hits_before, self.hits
        if self.leave_out and self.leave_out != self.watched:
            self._watch(self.leave_out)
        elif read_register("rip") in self.checks and self.on_check():
            self._raise_here()
        elif rested and not moved and self._begin_round():
            self.disarm()
            return DEAF
        return RUNNING

    def _begin_round(self) -> bool:
        """It came to rest: what was raised last was caught where it was seen last. Raise another one.

        Return whether that is no use, as it sits in C code that does not look for it: where it was told to look before and did
        not, or waits for nothing; and most likely where it was so once before.
        """
        unheard = self.last is None and self.awaited and self.victim.pending() == self.victim.exception
        if self.last is not None:
            self.caught[self.last.code] = self.caught.get(self.last.code, 0) + 1
            self.dropped += self.last == self.bare
        if not unheard:
            self.rounds += 1
        self.followers.clear()
        self.last, self.leave_out = None, 0
        self.victim.set_pending()
        self.awaited = True
        waited = interrupt_system_call()
        self.deaf = (unheard and (self.unheard or not waited)) or (self.deaf and not waited)
        self.unheard = unheard
        if self.watched:
            self.disarm()
        return self.deaf

    def _raise_here(self) -> None:
        # The thread holds the GIL here, at a place where CPython expects that an exception is raised.
        self.victim.withdraw()
        stack_pointer = read_register("rsp")
        exception = self.victim.exception
        call_then_return(self.set_none, exception, return_minus_one=self.return_minus_one, stack_pointer=stack_pointer)

    def _watch(self, code: int) -> None:
        assert self.codes is not None
        self._set_traps({})
        self.watched = code
        watchpoint = _Watchpoint(code + self.codes.co_exceptiontable, self._timed(self.on_look_up))
        self.traps.append(remover(watchpoint))

    def _set_traps(self, others: dict[int, OnHit]) -> None:
        """Have traps at PyTraceBack_Here and these, and no more: there are four debug registers."""
        self.disarm()
        for address, hit in {self.trace_back: self.on_exception, **others}.items():
            self.traps.append(set_hardware_breakpoint(address, select_thread().num, self._timed(hit)))
        self.armed = True

    def _timed(self, on_hit: OnHit) -> OnHit:
        """Have the time it takes count as one in which the thread is stopped."""

        def timed() -> bool:
            began = time.monotonic()
            try:
                return on_hit()
            finally:
                self.stopped_seconds += time.monotonic() - began

        return timed

    def disarm(self) -> None:
        """Take all breakpoints away."""
        super().disarm()
        self.watched = 0
        while self.traps:
            remove = self.traps.pop()
            remove()

    def go_on(self) -> None:
        """Let it run under pressure."""
        if not self.traps:
            self._set_traps(dict.fromkeys(self.checks, self.on_check))
        self.run()

    def _withdraw(self) -> None:
        if gdb.selected_inferior().threads():
            select_thread()
            self.victim.withdraw()

    def end(self) -> dict[str, Any]:
        """Take back what is pending, let go, and say what was seen."""
        alive = bool(gdb.selected_inferior().threads())
        result = self._result() if alive else "exited"
        return {"result": result, "hits": self.hits, "rounds": self.rounds, "skipped": self.skipped, **self.release()}

    def _result(self) -> str:
        if self.ended:
            return "unwound"
        if self.dropped >= MOST_DROPPED:
            return "dropped"
        first = self.rounds <= 1 and self.last is None
        return "no-check" if self.deaf or (first and self.victim.pending() == self.victim.exception) else "caught"


def _pressed(held: Held) -> Insistence:
    if not isinstance(held, Insistence):
        raise gdb.GdbError("no thread is under pressure")
    return held


@command("-ts-insist")
def insist(*, victim: dict[str, Any], frames: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Attach to the thread and raise in it. As it runs then, gdb answers ``^running`` and drops what a command returns."""
    keep(Insistence(Victim(**victim), FrameReader(**frames), options))
    with in_hand() as held:
        _pressed(held).go_on()
    return {}


@command("-ts-press")
def press(*, rested: bool) -> dict[str, Any]:
    """Deal with a stop; ``rested``: the thread has come to rest since the last press.

    Answers ``running`` if the thread goes on. Otherwise it stays stopped: ``done``, there is no more to do; or ``deaf``, it
    is in C code that does not look for the exception.
    """
    with in_hand() as held:
        state = _pressed(held).press(rested=rested)
        if state == RUNNING:
            _pressed(held).go_on()
    return {"state": state}


@command("-ts-relent")
def relent() -> dict[str, Any]:
    """Leave the stopped or ended thread alone, and say what was seen."""
    with in_hand() as held:
        return _pressed(held).end()
