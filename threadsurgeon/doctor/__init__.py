"""Would it work here, and on this process? Ordered checks, each with the value found and the remedy."""

from __future__ import annotations

from threadsurgeon.debugger.session import Session
from threadsurgeon.doctor.debugger import check_debugger, report_missing_debugger
from threadsurgeon.doctor.machine import check_machine
from threadsurgeon.doctor.target import check_target
from threadsurgeon.errors import DebuggerMissing
from threadsurgeon.model.diagnosis import Diagnosis


def diagnose(pid: int | None) -> Diagnosis:
    """Make all checks, of this machine and with ``pid`` of that process, which is only looked at.

    What is tried for real is tried on a child of ours.
    """
    try:
        session = Session.start()
    except DebuggerMissing as error:
        checks = [*check_machine(), *report_missing_debugger(error)]
    else:
        with session:  # gdb starts while we look at the rest
            checks = [*check_machine(), *check_debugger(session)]
    if pid is not None:
        checks += check_target(pid)
    return Diagnosis(pid, tuple(checks))
