"""When a thread last ran, as the scheduler notes it.

``se.exec_start`` in ``/proc/PID/task/TID/sched`` is the time at which a thread's running was last accounted: for one that
sleeps, when it went to sleep. The time is that of its CPU's run queue (``rq_clock_task``), which leaves out what interrupts
and the hypervisor took of that CPU, so the clocks of two CPUs drift apart, by hours in a month of uptime. The same clock has
to be read on the same CPU: a thread of ours goes there for an instant and looks when it runs itself.

The file needs CONFIG_SCHED_DEBUG, which nearly every distribution sets and Linux 6.15 made unconditional.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Collection

from threadsurgeon.linux.process import read_file

# A CPU on which a real-time task spins does not let us in.
VISIT_SECONDS = 0.1
_EXEC_START = re.compile(rb"^se\.exec_start\s*:\s*(\d+)\.(\d{6})$", re.MULTILINE)


def read_last_run(pid: int, tid: int) -> float | None:
    """Return when the thread last ran, in seconds on its CPU's clock; None where the kernel does not tell."""
    return _read_exec_start(f"/proc/{pid}/task/{tid}/sched")


class RunClocks:
    """The clocks of some CPUs."""

    def __init__(self, processors: Collection[int]) -> None:
        self._offsets: dict[int, float] = {}  # to time.monotonic()
        visitor = threading.Thread(target=self._visit, args=(sorted(processors),), daemon=True)
        visitor.start()
        visitor.join(VISIT_SECONDS)

    def now(self, processor: int) -> float | None:
        """Return what the CPU's clock shows, in seconds; None for a CPU on which we could not run."""
        offset = self._offsets.get(processor)
        return None if offset is None else time.monotonic() + offset

    def _visit(self, processors: list[int]) -> None:
        for processor in processors:
            try:
                os.sched_setaffinity(0, {processor})  # 0: this thread alone
            except OSError:
                continue
            time.sleep(1e-6)  # what one that runs has used is accounted at the next tick, or when it sleeps
            now = _read_exec_start("/proc/thread-self/sched")
            if now is not None:
                self._offsets[processor] = now - time.monotonic()


def _read_exec_start(path: str) -> float | None:
    try:
        found = _EXEC_START.search(read_file(path, 512))
    except OSError:
        return None
    # 0: it has been moved to another CPU, and has not run there yet
    return (int(found[1]) * 1_000_000 + int(found[2])) / 1e9 or None if found else None
