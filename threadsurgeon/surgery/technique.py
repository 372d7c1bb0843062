"""What a technique gets, and what it tells afterwards. Whether it helped is not for a technique to judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from threadsurgeon.debugger.commands import VictimArguments
from threadsurgeon.model.threads import Frame


@dataclass(frozen=True, slots=True)
class Victim(VictimArguments):
    """Everything a technique needs to know of the thread.

    ``functions`` holds PyErr_SetNone, and PyErr_CheckSignals, Py_MakePendingCalls and _PyEval_MakePendingCalls where they are
    exported.
    """

    thread_state: int
    functions: Mapping[str, int]


class Effect(str, Enum):
    """What a technique did, as far as the one who did it can tell."""

    SET = "set"  # the exception is pending: the eval loop will raise it when it next looks
    RAISED = "raised"  # raised where CPython checks for signals
    DELIVERED = "delivered-by-eval-loop"  # the pending exception was raised before a check was reached
    NO_CHECK = "no-check"  # no check was reached in time; nothing was raised
    EXITING = "exiting"  # the thread ends by itself now, without unwinding
    CAUGHT = "caught"  # raised again and again, and caught every time
    CUT = "cut"  # native frames were removed, and it was raised below them


@dataclass(frozen=True, slots=True)
class Applied:
    """A technique was applied. Times are of the victim alone: no other thread was stopped.

    ``previous``: the exception class that was pending before, or 0. ``hit``: the function at which it was raised.
    ``stopped_seconds``: all stops added, from before the attach to after the detach. ``armed_seconds``: how long the
    thread ran with hardware breakpoints set. ``rounds``: how often it was raised anew. ``skipped``: the frames whose handlers
    (``except``, ``finally``, ``with``) were left out. ``cut``: the native frames that were removed, innermost first, each as
    the name that it exports or else where it is. ``obstacle``: why it was given up, in words.
    """

    effect: Effect
    stopped_seconds: float
    gdb_version: str
    previous: int = 0
    hit: str | None = None
    in_system_call: bool | None = None
    armed_seconds: float = 0.0
    rounds: int = 1
    skipped: tuple[Frame, ...] = ()
    cut: tuple[str, ...] = ()
    obstacle: str | None = None
