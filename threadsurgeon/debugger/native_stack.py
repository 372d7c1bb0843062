"""The commands that hold a thread still while it is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from threadsurgeon.debugger.commands import explain
from threadsurgeon.debugger.mi import GdbError
from threadsurgeon.debugger.session import Session


@dataclass(frozen=True, slots=True)
class Stillness:
    """A stopped thread: its registers by DWARF number, and its ``pthread_t``."""

    registers: tuple[int, ...]
    thread_pointer: int


def hold_still(session: Session, pid: int, tid: int, start_time: int) -> Stillness:
    """Stop the thread, inside ``session.custody``; it stays stopped until ``let_be``."""
    arguments = {"pid": pid, "tid": tid, "start_time": start_time}
    reply = _send(session, pid, tid, "-ts-hold-still", arguments, stays_attached=True)
    return Stillness(tuple(reply["registers"]), reply["thread_pointer"])


def let_be(session: Session, pid: int, tid: int) -> float:
    """Let the thread go on, and return for how many seconds it was stopped."""
    return float(_send(session, pid, tid, "-ts-let-be", {}, stays_attached=False)["stopped_seconds"])


def _send(
    session: Session, pid: int, tid: int, name: str, arguments: dict[str, Any], *, stays_attached: bool
) -> dict[str, Any]:
    try:
        return session.command(name, arguments, stays_attached=stays_attached)
    except GdbError as error:
        raise explain(str(error), pid, tid) from None
