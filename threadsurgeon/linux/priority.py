"""Has a few threads run before all others, for as long as somebody else's thread stands still because of them.

A niceness would not do: where the scheduler groups by session (CONFIG_SCHED_AUTOGROUP, on in most distributions' kernels) it
counts only within one session, and a group per session gets its share. With fifteen busy sessions a processor gdb was seen to
wait 120 ms for each of its turns.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

CALLER = 0  # sched_setscheduler(2): the calling thread


@contextmanager
def before_others(*tids: int) -> Iterator[None]:
    """Give these threads real-time priority, the first one the highest. Needs CAP_SYS_NICE; does nothing without."""
    with ExitStack() as undo:
        for priority, tid in enumerate(reversed(tids), start=1):
            try:
                before = os.sched_getscheduler(tid), os.sched_getparam(tid)
                os.sched_setscheduler(tid, os.SCHED_RR, os.sched_param(priority))
            except (PermissionError, ProcessLookupError):
                continue
            undo.callback(_set_back, tid, *before)
        yield


def _set_back(tid: int, policy: int, parameter: os.sched_param) -> None:
    try:
        os.sched_setscheduler(tid, policy, parameter)
    except ProcessLookupError:
        pass
