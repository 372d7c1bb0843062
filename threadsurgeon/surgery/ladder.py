"""The techniques in their order, gentlest first: what each is used for, what it may leave behind, and how far one may go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from threadsurgeon.model.operations import Rung

NOTHING = "nothing: Python unwinds, finally blocks run, with blocks give their locks back"

RUNGS = {
    rung.technique: rung
    for rung in (
        Rung("raise", "it runs bytecode, or is about to: it notices a pending exception by itself", NOTHING),
        Rung("interrupt", "it waits in a system call, or computes in C code that checks for signals", NOTHING),
        Rung("signal", "it is the main thread: SIGINT raises KeyboardInterrupt there, as Ctrl-C does", NOTHING),
        Rung(
            "cut",
            "it is in C code that never checks: that code's native frames are removed, and Python unwinds from there",
            "objects that the removed C code held are never freed, and a lock that it held itself stays locked",
        ),
        Rung(
            "insist",
            "code in it catches every exception: it is raised anew in each handler, and where that is not enough the handlers "
            "of that one frame are left out; C code that was cut and is called again is cut again",
            "the except, finally and with blocks that are left out do not run: the report names them; of C code, as by cut",
        ),
        Rung(
            "terminate",
            "nothing else ended it (only with --force): it ends where it is, without unwinding",
            "finally blocks do not run, locks stay locked, and what it held is never freed",
        ),
    )
}
# These are said before they are used, and on a terminal asked for.
HARD = ("cut", "insist", "terminate")


def consent_to_all(_rung: Rung) -> bool:
    """The answer where nobody is there to be asked: the command was the consent."""
    return True


@dataclass(frozen=True, slots=True)
class Policy:
    """How far an operation may go.

    ``timeout_seconds`` is for each rung. ``climb``: raise again where code catches the exception, and use the harder
    rungs (``kill``). ``force``: the last rung, too. ``confirm`` is asked before each of the harder ones.
    """

    exception: str | None = None
    timeout_seconds: float = 5.0
    climb: bool = False
    force: bool = False
    leave_pending: bool = False
    allow_main: bool = False
    allow_import: bool = False
    confirm: Callable[[Rung], bool] = consent_to_all
