"""Technique 2, interrupt: make a blocking call return early, and raise at the point where CPython checks for signals.

A blocking call of CPython's returns with EINTR, asks PyErr_CheckSignals (locks: Py_MakePendingCalls) whether to go on,
and gives up if the answer is -1 with an exception set. Outside the main thread the answer is always 0, unless a debugger
gives it. Long computations ask, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from threadsurgeon.debugger import commands
from threadsurgeon.debugger.session import Session
from threadsurgeon.errors import NoSuchThread, Refused, UnsupportedPython
from threadsurgeon.linux.memory import BadAddress, ProcessMemory
from threadsurgeon.linux.perf import perf_events_in_use
from threadsurgeon.surgery.technique import Applied, Effect, Victim

RAISE = "PyErr_SetNone"
CHECKS = ("PyErr_CheckSignals", "Py_MakePendingCalls", "_PyEval_MakePendingCalls")

# "mov $-1,%eax; ret" and "or $-1,%eax; ret": how compilers end a C function that returns -1. Every CPython and libc has some.
_RETURN_MINUS_ONE = re.compile(rb"\xb8\xff\xff\xff\xff\xc3|\x83\xc8\xff\xc3")
_CHUNK = 1 << 20
_EXECUTABLE = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r-x. \S+ \S+ \S+ +/", re.MULTILINE)

_EFFECTS = {"raised": Effect.RAISED, "delivered": Effect.DELIVERED, "no-check": Effect.NO_CHECK}


def interrupt(session: Session, victim: Victim, deadline_seconds: float, *, also_pending: bool = False) -> Applied:
    """Raise at the next check for signals that the thread comes to within the time; wake it if it waits in a system call.

    With ``also_pending`` the exception is made pending as well, for a thread that is between bytecode and a wait:
    whichever comes first raises it, and it is raised once. It stays pending if neither comes. Without it, one that is
    pending already is taken back when it is raised at a check.

    Raises:
        Refused: the thread has a shadow stack, which catches what we do to its stack.
        UnsupportedPython: a function that we need is not there.
        Otherwise as ``raise_async``.
    """
    functions = {name: victim.functions[name] for name in CHECKS if name in victim.functions}
    if not functions or RAISE not in victim.functions:
        raise UnsupportedPython("this Python does not export the functions that check for signals")
    refuse_shadow_stack(victim)
    memory = ProcessMemory(victim.pid)
    return_minus_one = find_return_minus_one(memory, victim.functions[RAISE])

    def delivered() -> bool:
        try:
            pending = int.from_bytes(memory.read(victim.async_exc_address, 8), "little")
        except BadAddress:  # the thread has ended, and its state with it
            return True
        return pending != victim.exception

    with perf_events_in_use(), session.custody(victim.pid, victim.tid):
        commands.arm(
            session,
            victim,
            functions,
            also_pending=also_pending,
            set_none=victim.functions[RAISE],
            return_minus_one=return_minus_one,
        )
        if session.wait_for_stop(deadline_seconds, until=delivered if also_pending else None) is None:
            session.interrupt()
        struck = commands.strike(session, victim)
    if struck.result == "exited":
        if not also_pending:
            raise NoSuchThread(f"thread {victim.tid} ended by itself")
        effect = Effect.DELIVERED
    else:
        effect = _EFFECTS[struck.result]
    return Applied(
        effect,
        struck.stopped_seconds,
        session.version,
        previous=struck.previous,
        hit=struck.hit if effect is Effect.RAISED else None,
        in_system_call=struck.in_system_call,
        armed_seconds=struck.armed_seconds,
    )


def find_return_minus_one(memory: ProcessMemory, near: int) -> int:
    """Return the address of instructions that return -1 from a C function, in the code that holds ``near`` or else anywhere.

    Raises:
        UnsupportedPython: there are none.
    """
    for start, end in _executable_ranges(memory.pid, near):
        for chunk in range(start, end, _CHUNK):
            try:
                code = memory.read(chunk, min(_CHUNK, end - chunk))
            except BadAddress:
                continue
            if match := _RETURN_MINUS_ONE.search(code):
                return chunk + match.start()
    raise UnsupportedPython("no code in this process returns -1 in a way that we know")


def _executable_ranges(pid: int, near: int) -> Iterator[tuple[int, int]]:
    text = Path(f"/proc/{pid}/maps").read_text(errors="replace")
    ranges = [(int(match[1], 16), int(match[2], 16)) for match in _EXECUTABLE.finditer(text)]
    return iter(sorted(ranges, key=lambda range_: not range_[0] <= near < range_[1]))


def refuse_shadow_stack(victim: Victim) -> None:
    """Refuse a thread whose returns the processor checks.

    Raises:
        Refused: it has a shadow stack.
        NoSuchThread: it ended.
    """
    try:
        status = Path(f"/proc/{victim.pid}/task/{victim.tid}/status").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        raise NoSuchThread(f"thread {victim.tid} ended") from None
    if re.search(r"^x86_Thread_features:.*\bshstk\b", status, re.MULTILINE):
        raise Refused(f"thread {victim.tid} has a shadow stack, which would catch what we do to its stack")
