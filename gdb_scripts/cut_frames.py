"""``-ts-hold`` and what follows: hold one thread, tell its registers, let it run a bit, and at last change where it goes on.

What to change is for the session to decide, which can unwind; here a thread is only held, looked at, and let go.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import gdb

from .command import command
from .guard import attached, hardware_breakpoints, select_thread
from .machine import read_register, write_register
from .system_call import EINTR, INTERRUPTED
from .victim import Victim

# By their DWARF numbers: threadsurgeon/linux/unwind.py.
REGISTERS = ("rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", *(f"r{number}" for number in range(8, 16)), "rip")
MOST_INSTRUCTIONS = 48
BLOCK_ENDS = ("jmp", "ret", "hlt", "ud2", "(bad)")


class Held:
    """A thread in our hands."""

    def __init__(self, victim: Victim) -> None:
        self.victim = victim
        self.undo = ExitStack()  # the attachment
        self.breakpoints = ExitStack()
        self.since: float | None = time.monotonic()  # when it stopped; None while it runs
        self.stopped_seconds = 0.0
        self.armed_seconds = 0.0
        self.continued = 0.0
        self.armed = False

    def on_stop(self, _event: gdb.StopEvent) -> None:
        """Note when the thread stopped."""
        if self.since is None:
            self.since = time.monotonic()
            if self.armed:
                self.armed_seconds += self.since - self.continued

    def run(self, addresses: list[int]) -> None:
        """Let it run until it comes to one of the addresses."""
        self.armed = bool(addresses)
        if addresses:
            self.breakpoints.enter_context(hardware_breakpoints(addresses))
        gdb.execute("continue&", to_string=True)
        self.continued = time.monotonic()
        self.stopped_seconds += self.continued - (self.since or self.continued)
        self.since = None

    def release(self) -> dict[str, Any]:
        """Detach, and return how long it was stopped and armed in all."""
        with self.undo:
            self.breakpoints.close()
        if self.since is not None:
            self.stopped_seconds += time.monotonic() - self.since
        return {"stopped_seconds": self.stopped_seconds, "armed_seconds": self.armed_seconds}


_held: Held | None = None


def _take() -> Held:
    """Return the held thread, which nobody holds from now on: whoever took it lets it go or puts it back."""
    global _held
    held, _held = _held, None
    if held is None:
        raise gdb.GdbError("no thread is held")
    return held


def _look(held: Held) -> dict[str, Any]:
    if not gdb.selected_inferior().threads():
        return {"exited": True, **held.release()}
    select_thread()
    frame = gdb.newest_frame()
    mask = (1 << 64) - 1
    return {
        "exited": False,
        "registers": [int(frame.read_register(name)) & mask for name in REGISTERS],
        "original_rax": int(frame.read_register("orig_rax")),
        "flags": int(frame.read_register("eflags")),
    }


@command("-ts-hold")
def hold(*, victim: dict[str, Any]) -> dict[str, Any]:
    """Attach to the thread and keep it stopped."""
    global _held
    if _held is not None:
        raise gdb.GdbError("a thread is held already")
    held = Held(Victim(**victim))
    with held.undo:
        held.undo.enter_context(attached(held.victim.tid))
        held.victim.check()
        gdb.events.stop.connect(held.on_stop)
        held.undo.callback(gdb.events.stop.disconnect, held.on_stop)
        seen = _look(held)
        held.undo = held.undo.pop_all()  # all went well: stay attached
        _held = held
    return seen


@command("-ts-run-to")
def run_to(*, addresses: list[int]) -> dict[str, Any]:
    """Let the held thread run to one of the addresses. gdb answers ``^running``, and drops what a command returns."""
    global _held
    held = _take()
    with ExitStack() as undo:
        undo.callback(held.release)
        held.run(addresses)
        undo.pop_all()
        _held = held
    return {}


@command("-ts-look")
def look() -> dict[str, Any]:
    """Take the breakpoints away from the stopped thread, and tell its registers.

    gdb clears the debug registers only when it lets the thread go on: should it be killed before, they are still set.
    """
    global _held
    held = _take()
    with ExitStack() as undo:
        undo.callback(held.release)
        held.breakpoints.close()
        seen = _look(held)
        undo.pop_all()
        if not seen["exited"]:
            _held = held
    return seen


@command("-ts-disassemble")
def disassemble(*, address: int) -> dict[str, Any]:
    """Return instructions, each as address and text, from that address to the next unconditional jump or return."""
    global _held
    held = _take()
    with ExitStack() as undo:
        undo.callback(held.release)
        architecture = gdb.newest_frame().architecture()
        instructions: list[tuple[int, str]] = []
        while len(instructions) < MOST_INSTRUCTIONS and not (instructions and instructions[-1][1].startswith(BLOCK_ENDS)):
            for instruction in architecture.disassemble(address, count=8):
                text = str(instruction["asm"])
                instructions.append((int(instruction["addr"]), text))
                address = int(instruction["addr"]) + int(instruction["length"])
                if text.startswith(BLOCK_ENDS):
                    break
        undo.pop_all()
        _held = held
    return {"instructions": instructions}


@command("-ts-redirect")
def redirect(*, stack: int, content: str, program_counter: int) -> dict[str, Any]:
    """Put the content at the address, make that the stack pointer and go on at the program counter; detach.

    The content must lie below what the thread uses of its stack, red zone included. Until the stack pointer is written
    nothing has changed that the thread could notice, should gdb be killed; the program counter follows at once.
    """
    held = _take()
    with ExitStack() as undo:
        undo.callback(held.release)
        select_thread()
        inferior = gdb.selected_inferior()
        inferior.write_memory(stack, bytes.fromhex(content))
        if bytes(inferior.read_memory(stack, len(content) // 2)).hex() != content:
            raise gdb.GdbError("what was written to the stack is not there")
        if read_register("orig_rax") >= 0 and read_register("rax") in INTERRUPTED:
            # An interrupted system call returns EINTR: by itself that does no harm either. With orig_rax as it was the kernel
            # would go back to the call instruction, from wherever the thread then is.
            write_register("rax", -EINTR)
        write_register("orig_rax", -1)
        held.victim.withdraw()
        write_register("rsp", stack)
        write_register("rip", program_counter)
        undo.pop_all()
    return held.release()


@command("-ts-let-go")
def let_go() -> dict[str, Any]:
    """Let the thread go on as it was."""
    return _take().release()
