"""What we owe a thread that gdb has in hand: when gdb lets go of it, or dies, nothing of either may stay behind in it."""

from __future__ import annotations

import logging
import os
import signal
import time

from threadsurgeon.errors import NoSuchThread, TargetBusy, ThreadsurgeonError
from threadsurgeon.linux.process import CLOCK_TICKS, list_tids, read_status, read_task, read_thread_status
from threadsurgeon.linux.ptrace import clear_debug_registers

logger = logging.getLogger(__name__)


class Custody:
    """One thread, from before gdb attaches to it until it is known to be free again.

    ``held``: gdb is, or may be, attached. ``armed``: hardware breakpoints are, or may be, set while the thread runs.
    """

    def __init__(self, pid: int, tid: int) -> None:
        self.pid = pid
        self.tid = tid
        self.held = False
        self.armed = False
        self._orphaned = False
        self._began_ticks = int(time.clock_gettime(time.CLOCK_BOOTTIME) * CLOCK_TICKS)
        status = read_thread_status(tid)
        if status.tracer:
            raise TargetBusy(f"thread {tid} is traced by process {status.tracer}")
        self._was_stopped = status.state == "T"

    def debugger_died(self) -> None:
        """Clear the debug registers that gdb left behind. To be called as soon as it is known, before gdb is reaped."""
        if self.armed:
            for tid in self._armed_threads():
                try:
                    clear_debug_registers(tid)
                except NoSuchThread:
                    pass
                except ThreadsurgeonError as error:
                    logger.error("debug registers of thread %d may still be set: %s", tid, error)
        self._orphaned = self._orphaned or self.held
        self.held = self.armed = False

    def _armed_threads(self) -> list[int]:
        # First the victim: it may run into a breakpoint any moment. Threads that it started while it was traced are traced and
        # armed as well; they are among those younger than the custody.
        return [self.tid, *(tid for tid in self._young_threads() if tid != self.tid)]

    def _young_threads(self) -> list[int]:
        young = []
        try:
            for tid in list_tids(self.pid):
                try:
                    if read_task(self.pid, tid).start_time >= self._began_ticks:
                        young.append(tid)
                except NoSuchThread:
                    continue
        except ThreadsurgeonError:
            pass
        return young

    def check_released(self) -> None:
        """Make sure that the thread is neither traced nor stopped (other than it was before); nothing to do where it ended.

        Raises:
            TargetBusy: it is traced still, or again.
        """
        deadline = time.monotonic() + 1.0
        while True:
            try:
                status = read_status(self.tid)
            except ThreadsurgeonError:
                stopped = False
                break
            if not status.tracer or status.state in "ZX":
                stopped = status.state == "T"
                break
            if time.monotonic() > deadline:
                raise TargetBusy(f"thread {self.tid} is still traced, by process {status.tracer}")
            time.sleep(0.001)
        if not self._was_stopped and (stopped or self._orphaned):
            # A gdb that dies while it attaches leaves its SIGSTOP behind, which stops the whole process, maybe a moment from
            # now: no looking can tell. A SIGCONT takes back a stop that is on its way, and does nothing where there is none.
            logger.info("continuing process %d, which gdb may have left stopped", self.pid)
            try:
                os.kill(self.pid, signal.SIGCONT)
            except ProcessLookupError:
                pass
