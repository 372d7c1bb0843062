"""The thread to operate on: is it the one that was meant, and what is pending for it?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gdb

from .machine import read_number, read_register, write_number


def check_thread(pid: int, tid: int, start_time: int) -> None:
    """Make sure that the traced thread is the one that was meant, and that its process as a whole is not traced.

    Raises:
        gdb.GdbError: it is not.
    """
    stat = Path(f"/proc/{pid}/task/{tid}/stat").read_text(errors="replace")
    started = int(stat.rpartition(")")[2].split()[19])  # field 22; the name before it may hold blanks and brackets
    if started != start_time:
        raise gdb.GdbError(f"mismatch: thread {tid} started at {started}, not {start_time}: it is another one")
    if "\nTracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text(errors="replace"):
        raise gdb.GdbError(f"traced: the main thread of process {pid} is traced, by us or another")


@dataclass(frozen=True)
class Victim:
    """What the look plane found out about the thread; see ``threadsurgeon/surgery/technique.py``."""

    pid: int
    tid: int
    start_time: int
    thread_id_address: int
    ident: int
    async_exc_address: int
    flags: list[list[int]]
    eval_breaker_sources: list[int]
    exception: int
    exception_refcnt_address: int | None

    def check(self) -> None:
        """Make sure that the traced thread is this one, by its start time, its pthread_t, and its Python thread state.

        It is stopped now and cannot end or be reused meanwhile. Also that its process as a whole is not traced.

        Raises:
            gdb.GdbError: something is not as it was seen.
        """
        check_thread(self.pid, self.tid, self.start_time)
        recorded = read_number(self.thread_id_address)
        if recorded != self.ident:
            raise gdb.GdbError(f"mismatch: the thread state is of thread {recorded:#x}, not {self.ident:#x}")
        if read_register("fs_base") != self.ident:
            raise gdb.GdbError(f"mismatch: thread {self.tid} is not the Python thread {self.ident:#x}")

    def pending(self) -> int:
        """Return the address of the exception class that waits to be raised in the thread, or 0."""
        return read_number(self.async_exc_address)

    def set_pending(self) -> int:
        """Do what PyThreadState_SetAsyncExc does, and return what was pending before.

        Leaves behind: the pending exception. A different one that was pending is replaced, and the reference held on that
        class is not given back: one reference too many on a class harms nobody, one too few would.
        """
        before = self.pending()
        if before != self.exception:
            self._count_reference(+1)
            write_number(self.async_exc_address, self.exception)
        for address, size, bits in self.flags:
            write_number(address, read_number(address, size) | bits, size)
        return before

    def withdraw(self) -> bool:
        """Take our exception back if it is still pending."""
        if self.pending() != self.exception:
            return False
        write_number(self.async_exc_address, 0)
        self._count_reference(-1)
        self._withdraw_flags()
        return True

    def _withdraw_flags(self) -> None:
        """Do what COMPUTE_EVAL_BREAKER does in 3.8 to 3.12, which do it only when the exception is raised.

        Left set, all threads would look for an exception at every check, and run slower, for ever. From 3.13 on a thread's
        eval loop clears its own bit. Another thread's pending exception sets the flag again when that thread takes the GIL.
        """
        if not self.eval_breaker_sources:
            return
        (request, request_size, _), (breaker, breaker_size, _) = self.flags
        write_number(request, 0, request_size)
        # Whoever sets a source sets eval_breaker afterwards: a source that is set now and was not seen will still do so.
        write_number(breaker, 0, breaker_size)
        if any(read_number(source, 4) for source in self.eval_breaker_sources):
            write_number(breaker, 1, breaker_size)

    def _count_reference(self, change: int) -> None:
        if self.exception_refcnt_address is not None:
            write_number(self.exception_refcnt_address, read_number(self.exception_refcnt_address) + change)
