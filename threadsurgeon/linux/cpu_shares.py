"""Which share of a CPU each thread of a process uses, measured while other work is done."""

from __future__ import annotations

import time
from collections.abc import Sequence

from threadsurgeon.linux.process import list_tids, read_cpu_time, read_process_cpu_time

# Shares are measured over at least this long: the kernel accounts a running thread's time at each tick of 1 to 10 ms.
CPU_SECONDS = 0.05
# A process that uses less than this share of one CPU has no thread that uses 1 %.
IDLE_SHARE = 0.01


class CpuShares:
    """Measures the threads of a process from its making on. An idle process costs nothing: no thread of it is asked."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._since = time.monotonic()
        self._before = read_process_cpu_time(pid)
        self._clock: CpuClock | None = None

    def watch(self) -> None:
        """Begin to measure each thread, if the process may be busy. What is done from now on need not be waited for later.

        Raises:
            NoSuchProcess: it ended.
        """
        if self._until_idle() > 0:
            self._clock = CpuClock(self._pid, list_tids(self._pid))

    def finish(self, tids: Sequence[int]) -> dict[int, float | None]:
        """Return the percentage of one CPU by TID, None for a thread that is too new; waits until it can be told."""
        while (seconds := self._until_idle()) > 0:
            # A thread that has just run for a moment does not make the process busy, if it now sleeps for a while.
            if time.monotonic() - self._since + seconds > CPU_SECONDS:
                if self._clock is None:
                    self._clock = CpuClock(self._pid, tids)
                self._clock.wait(CPU_SECONDS)
                return {tid: self._clock.percent(tid) for tid in tids}
            time.sleep(seconds)
        return dict.fromkeys(tids, 0.0)

    def _until_idle(self) -> float:
        """Return how many seconds without any use of CPU would make the process an idle one; 0 or less: it is."""
        now = read_process_cpu_time(self._pid)
        if now is None or self._before is None:
            return CPU_SECONDS
        return (now - self._before) / IDLE_SHARE - (time.monotonic() - self._since)


class CpuClock:
    """Measures the CPU share of threads between its making and a later moment."""

    def __init__(self, pid: int, tids: Sequence[int]) -> None:
        self._pid = pid
        self.since = time.monotonic()
        self._before = {tid: (time.monotonic(), read_cpu_time(pid, tid)) for tid in tids}

    def wait(self, seconds: float) -> None:
        """Wait until this long since its making."""
        time.sleep(max(0.0, self.since + seconds - time.monotonic()))

    def percent(self, tid: int) -> float | None:
        """Return the share of one CPU that the thread has used since, 0 to 100; None for a thread that is newer."""
        since, before = self._before.get(tid, (0.0, None))
        now = read_cpu_time(self._pid, tid)
        elapsed = time.monotonic() - since
        if before is None or now is None or elapsed <= 0:
            return None
        return min(100.0, round(100 * (now - before) / elapsed, 1))
