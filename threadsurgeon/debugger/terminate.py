"""The command of technique 4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from threadsurgeon.debugger.commands import VictimArguments, explain
from threadsurgeon.debugger.mi import GdbError
from threadsurgeon.debugger.session import Session


@dataclass(frozen=True, slots=True)
class Place:
    """Where a thread waits: the system call's number, the stack pointer and the program counter."""

    number: int
    stack_pointer: int
    program_counter: int


@dataclass(frozen=True, slots=True)
class WayOut:
    """What a Python thread is to run instead of going back, and what must be so: see ``gdb_scripts/terminate.py``."""

    victim: VictimArguments
    gil: tuple[tuple[int, int, int], ...]
    stores: tuple[tuple[int, int, int], ...]
    stack: int
    content: bytes
    program_counter: int


@dataclass(frozen=True, slots=True)
class Terminated:
    """``moved``: the thread was no longer at the place, and nothing was done."""

    moved: bool
    stopped_seconds: float


def terminate(
    session: Session, pid: int, tid: int, start_time: int, place: Place, way_out: WayOut | None = None
) -> Terminated:
    """Set the thread on its way out if it still is at that place, in one stop. Without Python where there is no way out."""
    arguments: dict[str, Any] = {
        "pid": pid,
        "tid": tid,
        "start_time": start_time,
        "place": {name: getattr(place, name) for name in Place.__slots__},
        "python": None,
    }
    if way_out is not None:
        arguments["python"] = {
            "victim": way_out.victim.as_json(),
            "gil": way_out.gil,
            "stores": way_out.stores,
            "stack": way_out.stack,
            "content": way_out.content.hex(),
            "program_counter": way_out.program_counter,
        }
    try:
        return Terminated(**session.command("-ts-terminate", arguments))
    except GdbError as error:
        raise explain(str(error), pid, tid) from None
