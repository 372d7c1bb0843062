"""One typed function per ``-ts-*`` command: arguments out, a frozen dataclass back, gdb's refusals as errors of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from threadsurgeon.debugger.mi import GdbError
from threadsurgeon.debugger.session import Session
from threadsurgeon.errors import (
    DebuggerFailed,
    NoSuchProcess,
    NoSuchThread,
    TargetBusy,
    ThreadsurgeonError,
)
from threadsurgeon.linux.permission import explain_refusal
from threadsurgeon.linux.process import is_alive, list_tids, read_status


@dataclass(frozen=True, slots=True)
class VictimArguments:
    """What every command needs to find its thread and to be sure of it: the fields of ``Victim`` in ``gdb_scripts/victim.py``.

    All of it is found beforehand by looking only, and checked again when the thread is stopped and can change no more:
    ``start_time`` (field 22 of ``/proc/PID/task/TID/stat``), and ``ident`` at ``thread_id_address`` and in the thread's own
    ``fs_base``.

    ``flags`` make the eval loop look for the exception: (address, size in bytes, bits to set). From 3.13 on that is the lowest
    byte of ``tstate->eval_breaker`` alone: other threads set other bits. Before, ``eval_breaker_sources`` are the addresses of
    the other ints that ``eval_breaker`` sums up, looked at when the exception is taken back; from 3.13 on there are none.
    ``exception_refcnt_address`` is None where builtin classes are immortal (3.12 on).
    """

    pid: int
    tid: int
    start_time: int
    thread_id_address: int
    ident: int
    async_exc_address: int
    flags: tuple[tuple[int, int, int], ...]
    eval_breaker_sources: tuple[int, ...]
    exception: int
    exception_refcnt_address: int | None

    def as_json(self) -> dict[str, Any]:
        """Return these fields, and none that a subclass adds."""
        return {name: getattr(self, name) for name in VictimArguments.__slots__}


@dataclass(frozen=True, slots=True)
class Raised:
    """The exception is pending. ``previous``: the class that was pending before, or 0."""

    previous: int
    stopped_seconds: float


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Whether the exception was still pending, and has been taken back."""

    withdrawn: bool
    stopped_seconds: float


@dataclass(frozen=True, slots=True)
class Struck:
    """What was done since ``arm``; gdb has let go of the thread. For ``result`` see ``gdb_scripts/interrupt.py``."""

    result: str
    hit: str | None
    in_system_call: bool
    previous: int
    stopped_seconds: float
    armed_seconds: float


class Pressed(str, Enum):
    """What came of a press."""

    RUNNING = "running"
    DONE = "done"  # it stays stopped: there is no more to do
    DEAF = "deaf"  # it stays stopped: it is in C code that does not look for what is pending


@dataclass(frozen=True, slots=True)
class Relented:
    """What was seen since ``insist``; gdb has let go of the thread. For ``result`` see ``gdb_scripts/insist.py``.

    ``skipped``: the frames whose handlers were left out, as (address, code object, instruction).
    """

    result: str
    hits: int
    rounds: int
    skipped: list[tuple[int, int, int]]
    stopped_seconds: float
    armed_seconds: float


def raise_async(session: Session, victim: VictimArguments) -> Raised:
    """Make the exception pending in the thread, in one stop. Leaves behind: the pending exception."""
    return Raised(**_send(session, "-ts-raise", victim, {"victim": victim.as_json()}))


def withdraw(session: Session, victim: VictimArguments) -> Withdrawn:
    """Take the exception back if it is still pending, in one stop."""
    return Withdrawn(**_send(session, "-ts-withdraw", victim, {"victim": victim.as_json()}))


def arm(
    session: Session,
    victim: VictimArguments,
    functions: Mapping[str, int],
    *,
    also_pending: bool,
    set_none: int,
    return_minus_one: int,
) -> None:
    """Interrupt the system call the thread waits in, and let it run until one of the functions; it raises there.

    Leaves gdb attached.
    """
    arguments = {
        "victim": victim.as_json(),
        "functions": dict(functions),
        "also_pending": also_pending,
        "set_none": set_none,
        "return_minus_one": return_minus_one,
    }
    _send(session, "-ts-arm", victim, arguments, stays_attached=True)


def strike(session: Session, victim: VictimArguments) -> Struck:
    """Remove the breakpoints from the stopped or ended thread, detach, and say what came of it."""
    return Struck(**_send(session, "-ts-strike", victim, {}))


def insist(session: Session, victim: VictimArguments, frames: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raise in the thread, and again wherever that is caught; let it run meanwhile. Leaves gdb attached."""
    arguments = {"victim": victim.as_json(), "frames": dict(frames), "options": dict(options)}
    _send(session, "-ts-insist", victim, arguments, stays_attached=True)


def press(session: Session, victim: VictimArguments, *, rested: bool) -> Pressed:
    """Let the stopped thread go on after what the stop was about is done.

    ``rested``: it has come to rest since the last press, enough to notice or to catch what was raised.
    """
    return Pressed(_send(session, "-ts-press", victim, {"rested": rested}, stays_attached=True).get("state", "running"))


def relent(session: Session, victim: VictimArguments) -> Relented:
    """Leave the stopped or ended thread alone: nothing pending, no breakpoints, detached."""
    return Relented(**_send(session, "-ts-relent", victim, {}))


def _send(
    session: Session, name: str, victim: VictimArguments, arguments: dict[str, Any], *, stays_attached: bool = False
) -> dict[str, Any]:
    try:
        return session.command(name, arguments, stays_attached=stays_attached)
    except GdbError as error:
        raise explain(str(error), victim.pid, victim.tid) from None


def explain(message: str, pid: int, tid: int) -> ThreadsurgeonError:
    """Return the error behind what gdb said: first of all whether the thread is still there at all."""
    if not is_alive(pid):
        return NoSuchProcess(f"process {pid} ended meanwhile")
    try:
        gone = tid not in list_tids(pid) or read_status(tid).state in "ZX"
    except ThreadsurgeonError:
        gone = True
    if gone or "No such process" in message:
        return NoSuchThread(f"thread {tid} ended meanwhile")
    if message.startswith("mismatch: "):
        return NoSuchThread(message.removeprefix("mismatch: "))
    if message.startswith("traced: "):
        return TargetBusy(message.removeprefix("traced: "))
    if "Operation not permitted" in message:
        tracer = read_status(tid).tracer
        if tracer:
            return TargetBusy(f"thread {tid} is traced by process {tracer}")
        return explain_refusal(pid, f"trace thread {tid}")
    return DebuggerFailed(f"gdb: {message}", hint=f"does operating work here at all? threadsurgeon doctor {pid}")
