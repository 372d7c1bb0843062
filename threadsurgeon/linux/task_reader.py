"""What every thread of a process is in, from ``/proc``: read by ourselves, or meanwhile by a second process of ours.

Two files a thread are much of what a listing of a thousand threads costs, and all of that is the kernel's: while a fork reads
them, on another processor, we read the target's memory. A thread of ours would have to share the GIL with that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import TracebackType

from threadsurgeon.linux.process import SystemCall, Task, list_tids, open_tasks, parse_system_call, parse_task, read_file

# With fewer threads a fork costs more than it saves.
MIN_THREADS = 200
SIGKILL = 9  # the signal module takes a millisecond to import
_END = b"end"  # what comes before it is all there is


class TaskReader:
    """Reads from the moment it is entered until ``finish``; what it started ends with it."""

    def __init__(self, pid: int, *, forks: bool) -> None:
        """``forks``: let a second process read, where that is harmless and of use."""
        self._pid = pid
        self._forks = forks and may_fork()
        self._child = 0
        self._pipe = -1

    def __enter__(self) -> TaskReader:
        if self._forks:
            try:
                self._fork()
            except OSError:  # a limit of processes or files: then we read
                pass
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        if self._child:
            child, self._child = self._child, 0
            os.kill(child, SIGKILL)  # it is ours, and not waited for yet: no other can have its id
            os.waitpid(child, 0)

    def finish(self) -> tuple[list[Task], dict[int, SystemCall]]:
        """Return every thread, and the system calls of those that sit in one and of which the kernel tells us, by TID.

        Raises:
            NoSuchProcess: there is no such process.
        """
        tasks = []
        calls = {}
        for tid, stat, syscall in self._receive() or _read_files(self._pid):
            tasks.append(parse_task(tid, stat))
            call = parse_system_call(syscall)
            if call is not None:
                calls[tid] = call
        return tasks, calls

    def _fork(self) -> None:
        import signal

        # Where children are waited for by nobody (a parent of ours ignored SIGCHLD, and exec keeps that), or by a handler, the
        # child's id may soon be another process's.
        if signal.getsignal(signal.SIGCHLD) is not signal.SIG_DFL:
            return
        self._pipe, end = os.pipe()
        # A Ctrl-C in the second process must not send it back into the program of the first.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._child = os.fork()
            if self._child == 0:
                _read_and_exit(self._pid, end)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(end)

    def _receive(self) -> list[tuple[int, bytes, bytes]]:
        """Return what the second process has read; nothing if it did not come to its end."""
        if not self._child:
            return []
        with open(self._pipe, "rb", closefd=False) as pipe:
            *fields, end = pipe.read().split(b"\0")
        if end != _END:
            return []
        each = iter(fields)
        return [(int(tid), stat, syscall) for tid, stat, syscall in zip(each, each, each, strict=True)]


def may_fork() -> bool:
    """Say whether a fork is harmless, as we have no other thread, and of use, as there is a processor for it."""
    return len(os.listdir("/proc/self/task")) == 1 and len(os.sched_getaffinity(0)) > 1


def _read_and_exit(pid: int, pipe: int) -> None:
    """Be the second process: nothing of what the first has begun may end here, whatever happens."""
    try:
        # Neither file holds a zero byte.
        text = b"".join([b"%d\0%b\0%b\0" % record for record in _read_files(pid)]) + _END
        while text:
            text = text[os.write(pipe, text) :]
    finally:
        os._exit(0)


def _read_files(pid: int) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield each thread's TID, ``stat`` and ``syscall``; those that ended are left out. Errors as ``list_tids``.

    The last is empty where the kernel does not tell us: it asks for the same permission as ptrace.
    """
    tids = list_tids(pid)
    tells = True
    with open_tasks(pid) as folder:
        for tid in tids:
            syscall = b""
            try:
                stat = read_file(f"{tid}/stat", 1024, folder=folder)
                if tells:
                    syscall = read_file(f"{tid}/syscall", 256, folder=folder)
            except (FileNotFoundError, ProcessLookupError):
                continue
            except OSError:
                tells = False
            yield tid, stat, syscall
