"""``-ts-insist``, ``-ts-press`` and ``-ts-relent``: raise again wherever an exception was caught, harder each time.

Every exception that passes a Python frame passes PyTraceBack_Here first, with the GIL held: a hardware breakpoint there
sees its way through the stack. Where it goes on to the frame's caller, nothing is done. Where its way ends, the code of
that frame has caught it: when the next one comes by, it is followed by another that meets the handler at its first
bytecode check, and when that did not help either, the handlers of the frame are left out.

Between the commands the thread runs with hardware breakpoints, and most hits are dealt with on the spot. "press" is for what
needs a real stop, "relent" ends it all. The session watches over it.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import gdb

from .call import call_then_return
from .code_objects import CodeReader
from .command import command
from .frames import Frame, FrameReader
from .guard import attached, select_thread
from .machine import read_register, write_register
from .system_call import interrupt_system_call
from .victim import Victim

# After the first, second, third time that code caught it, up to 1, 4, 16 exceptions follow the one that is raised next: one
# for the handler, and none for what the same function tidies up afterwards; but recursive code catches as often as it is deep.
FOLLOWERS = 4

# So far below the stack pointer that the functions that look into the table do not come there.
SCRATCH = 4096
GENERAL_REGISTERS = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", *(f"r{number}" for number in range(8, 16)))


class _Breakpoint(gdb.Breakpoint):
    """A hardware breakpoint whose hits are dealt with by a method of the insistence; True from it means to stop."""

    def __init__(self, place: str, hit: Any, kind: int = gdb.BP_HARDWARE_BREAKPOINT) -> None:
        super().__init__(f"{place} thread {select_thread().num}", kind, wp_class=gdb.WP_ACCESS, internal=True)
        self._hit = hit

    def stop(self) -> bool:
        began = time.monotonic()
        insistence: Insistence = self._hit.__self__
        try:
            return bool(self._hit())
        finally:
            insistence.stopped_seconds += time.monotonic() - began


class Insistence:
    """A thread under pressure, from "insist" to "relent"."""

    def __init__(self, victim: Victim, reader: FrameReader, options: dict[str, Any]) -> None:
        self.victim = victim
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
        self.quiet_seconds: float = options["quiet_seconds"]

        self.undo = ExitStack()  # the breakpoints, then the attachment
        self.breakpoints: list[_Breakpoint] = []
        self.awaited = False  # ours is pending, or was raised and has not been seen yet
        self.last: Frame | None = None  # how far the exception has come
        self.caught: dict[int, int] = {}  # code object → how often an exception went no further
        self.followers: dict[int, int] = {}  # code object → how many more may follow in this round
        self.leave_out = 0  # the code object whose handlers are being left out
        self.watched = 0  # the code object whose exception table is watched
        self.ended = False
        self.skipped: list[tuple[int, int, int]] = []
        self.hits = self.rounds = 0
        self.moved = self.began = time.monotonic()
        self.stopped_seconds = self.armed_seconds = 0.0
        self.stopped: float | None = None
        self.running: float | None = None

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
        self.moved = time.monotonic()
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

    def on_stop(self, _event: gdb.StopEvent) -> None:
        """Note when the thread stopped."""
        if self.stopped is None:
            self.stopped = time.monotonic()
            if self.running is not None:
                self.armed_seconds += self.stopped - self.running

    def press(self) -> bool:
        """Do what the stop is about, and let the thread go on; False if there is no more to do."""
        if not gdb.selected_inferior().threads() or self.ended or self.hits > self.most_hits:
            return False
        select_thread()
        if self.leave_out and self.leave_out != self.watched:
            self._watch(self.leave_out)
        elif read_register("rip") in self.checks and self.on_check():
            self._raise_here()
        elif time.monotonic() - self.moved > self.quiet_seconds:
            self._begin_round()
        self._go_on()
        return True

    def _begin_round(self) -> None:
        """Nothing moves any more: what was raised last was caught where it was seen last. Raise another one."""
        if not self.awaited and self.last is not None:
            self.caught[self.last.code] = self.caught.get(self.last.code, 0) + 1
        if not self.awaited or self.victim.pending() != self.victim.exception:
            self.rounds += 1
        self.followers.clear()
        self.last, self.leave_out = None, 0
        self.victim.set_pending()
        self.awaited = True
        self.moved = time.monotonic()
        interrupt_system_call()
        if self.watched or not self.breakpoints:
            self._set_breakpoints(dict.fromkeys(self.checks, self.on_check))

    def _raise_here(self) -> None:
        # The thread holds the GIL here, at a place where CPython expects that an exception is raised.
        self.victim.withdraw()
        stack_pointer = read_register("rsp")
        exception = self.victim.exception
        call_then_return(self.set_none, exception, return_minus_one=self.return_minus_one, stack_pointer=stack_pointer)

    def _watch(self, code: int) -> None:
        assert self.codes is not None
        self._set_breakpoints({})
        self.watched = code
        place = f"*(long *) {code + self.codes.co_exceptiontable:#x}"
        self.breakpoints.append(_Breakpoint(place, self.on_look_up, gdb.BP_WATCHPOINT))

    def _set_breakpoints(self, others: dict[int, Any]) -> None:
        """Have breakpoints at PyTraceBack_Here and these, and no more: there are four debug registers."""
        self.clear_breakpoints()
        for address, hit in {self.trace_back: self.on_exception, **others}.items():
            self.breakpoints.append(_Breakpoint(f"*{address:#x}", hit))

    def clear_breakpoints(self) -> None:
        """Take all breakpoints away."""
        self.watched = 0
        while self.breakpoints:
            breakpoint_ = self.breakpoints.pop()
            if breakpoint_.is_valid():
                breakpoint_.delete()

    def _go_on(self) -> None:
        gdb.execute("continue&", to_string=True)
        self.running = time.monotonic()
        self.stopped_seconds += self.running - (self.began if self.stopped is None else self.stopped)
        self.stopped = None

    def begin(self) -> None:
        """Attach, make the exception pending, set the breakpoints, and let the thread run. Undone on every way out."""
        with self.undo:
            self.undo.enter_context(attached(self.victim.tid))
            self.victim.check()
            self.undo.callback(self.clear_breakpoints)
            gdb.events.stop.connect(self.on_stop)
            self.undo.callback(gdb.events.stop.disconnect, self.on_stop)
            self._begin_round()
            self._go_on()
            self.undo = self.undo.pop_all()

    def end(self) -> dict[str, Any]:
        """Take back what is pending and let go."""
        with self.undo:
            alive = bool(gdb.selected_inferior().threads())
            never = self.rounds <= 1 and self.last is None
            if alive:
                select_thread()
                withdrawn = self.victim.withdraw()
                never = never and withdrawn
        now = time.monotonic()
        return {
            "result": "exited" if not alive else "unwound" if self.ended else "no-check" if never else "caught",
            "hits": self.hits,
            "rounds": self.rounds,
            "skipped": self.skipped,
            "stopped_seconds": self.stopped_seconds + now - (now if self.stopped is None else self.stopped),
            "armed_seconds": self.armed_seconds,
        }


_insistence: Insistence | None = None


@command("-ts-insist")
def insist(*, victim: dict[str, Any], frames: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Attach to the thread and raise in it. As it runs then, gdb answers ``^running`` and drops what a command returns."""
    global _insistence
    if _insistence is not None:
        raise gdb.GdbError("a thread is under pressure already")
    insistence = Insistence(Victim(**victim), FrameReader(**frames), options)
    insistence.begin()
    _insistence = insistence
    return {}


@command("-ts-press")
def press() -> dict[str, Any]:
    """Deal with a stop. Answers ``^running`` if the thread goes on, ``done`` if there is no more to do."""
    global _insistence
    insistence = _insistence
    if insistence is None:
        raise gdb.GdbError("no thread is under pressure")
    try:
        return {"done": not insistence.press()}
    except BaseException:
        _insistence = None
        insistence.end()
        raise


@command("-ts-relent")
def relent() -> dict[str, Any]:
    """Leave the stopped or ended thread alone, and say what was seen."""
    global _insistence
    insistence, _insistence = _insistence, None
    if insistence is None:
        raise gdb.GdbError("no thread is under pressure")
    return insistence.end()
