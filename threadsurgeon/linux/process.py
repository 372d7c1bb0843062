"""Facts of a process and its tasks, from ``/proc``.

A task is trusted only together with its start time: TIDs are reused.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from threadsurgeon.errors import NoSuchProcess, NoSuchThread, PermissionDenied

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

# proc_pid_stat(5), in psutil's words.
STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "disk-sleep",
    "T": "stopped",
    "t": "tracing-stop",
    "Z": "zombie",
    "X": "dead",
    "x": "dead",
    "I": "idle",
    "P": "parked",
    "K": "wake-kill",
    "W": "waking",
}


class Task(NamedTuple):
    """One OS thread as ``/proc/PID/task/TID/stat`` shows it.

    ``start_time`` in clock ticks since boot; ``processor``: the CPU that it ran on last.
    """

    tid: int
    native_name: str
    state: str
    start_time: int
    cpu_seconds: float
    processor: int = 0


class Status(NamedTuple):
    """What ``/proc/PID/status`` says, as far as we need it."""

    name: str
    state: str
    tgid: int
    tracer: int
    uid: int
    namespace_pids: tuple[int, ...]
    threads: int
    kernel_thread: bool

    @property
    def namespace_pid(self) -> int:
        """The id that the task has in its own PID namespace."""
        return self.namespace_pids[-1]


OUTSIDE = -1
FUTEX = 202  # arch/x86/entry/syscalls/syscall_64.tbl


class SystemCall(NamedTuple):
    """The system call a task sits in, with its six arguments (proc_pid_syscall(5)).

    ``number`` is ``OUTSIDE`` for a task that the kernel holds without its having called, as for a page fault.
    """

    number: int
    arguments: tuple[int, ...]
    stack_pointer: int
    program_counter: int

    def is_futex_in(self, start: int, size: int) -> bool:
        """Whether it waits for a futex in that range: take_gil() for one in the GIL, which is larger than that one word."""
        return self.number == FUTEX and start <= self.arguments[0] < start + size


def read_file(path: str, size: int = 16384, *, folder: int | None = None) -> bytes:
    """Return what one read of a file in ``/proc`` gives; errors as ``os.open`` and ``os.read``."""
    # os.open is a third of the cost of open() here, and a listing of 10,000 threads reads 20,000 such files.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.read(descriptor, size)
    finally:
        os.close(descriptor)


def read_link(path: str) -> str:
    """Return what a link in ``/proc`` leads to, as text; errors as ``os.readlink``."""
    return os.readlink(os.fsencode(path)).decode(errors="replace")


def read_status(task: int) -> Status:
    """Return the status of a process or of one of its threads.

    Raises:
        NoSuchProcess: there is none with that id.
    """
    try:
        text = read_file(f"/proc/{task}/status").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        raise NoSuchProcess(f"there is no process {task}") from None
    except PermissionError:
        raise PermissionDenied(f"/proc/{task}/status is not readable for us") from None
    fields: dict[str, str] = {}
    for line in text.split("\n"):  # not splitlines: the kernel escapes only this one in a name, which comes first
        key, _, value = line.partition(":")
        fields[key] = value.strip()
    return Status(
        name=fields.get("Name", ""),
        state=fields["State"][0],
        tgid=int(fields["Tgid"]),
        tracer=int(fields["TracerPid"]),
        uid=int(fields["Uid"].split()[1]),
        namespace_pids=tuple(int(pid) for pid in fields.get("NSpid", str(task)).split()),
        threads=int(fields.get("Threads", "1")),
        # Linux 6.8 says Kthread; before that: no memory map of its own, and not a zombie, which has lost its map.
        kernel_thread=fields.get("Kthread") == "1" or ("VmSize" not in fields and fields["State"][0] not in "ZX"),
    )


def read_thread_status(tid: int) -> Status:
    """Return the status of a thread that was there a moment ago.

    Raises:
        NoSuchThread: it ended.
    """
    try:
        return read_status(tid)
    except NoSuchProcess:
        raise NoSuchThread(f"thread {tid} ended") from None


def read_task(pid: int, tid: int) -> Task:
    """Return one thread of the process.

    Raises:
        NoSuchThread: it has no such thread (any more).
    """
    try:
        return parse_task(tid, read_file(f"/proc/{pid}/task/{tid}/stat", 1024))
    except (FileNotFoundError, ProcessLookupError):
        raise NoSuchThread(f"process {pid} has no thread {tid}") from None


def parse_task(tid: int, text: bytes) -> Task:
    """Return what ``/proc/PID/task/TID/stat`` says."""
    # The name is in brackets and may itself hold brackets and blanks.
    opening, closing = text.index(b"("), text.rindex(b")")
    fields = text[closing + 2 :].split(None, 37)  # of 50
    return Task(
        tid=tid,
        native_name=text[opening + 1 : closing].decode(errors="replace"),
        state=chr(fields[0][0]),
        cpu_seconds=(int(fields[11]) + int(fields[12])) / CLOCK_TICKS,
        start_time=int(fields[19]),
        processor=int(fields[36]),
    )


def list_tids(pid: int) -> list[int]:
    """Return the ids of all threads of the process, the oldest first.

    Raises:
        NoSuchProcess: there is no such process.
    """
    with _explain_errors(pid):
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]


@contextmanager
def open_tasks(pid: int) -> Iterator[int]:
    """Open the folder of a process's threads: from there on it is half the way to their files. Errors as ``list_tids``."""
    with _explain_errors(pid):
        folder = os.open(f"/proc/{pid}/task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield folder
    finally:
        os.close(folder)


@contextmanager
def _explain_errors(pid: int) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ProcessLookupError):
        raise NoSuchProcess(f"there is no process {pid}") from None
    except PermissionError:
        raise PermissionDenied(f"/proc/{pid}/task is not readable for us") from None


def iterate_tasks(pid: int) -> Iterator[Task]:
    """Yield every thread of the process; one that ends meanwhile is left out. Errors as ``list_tids``."""
    tids = list_tids(pid)
    with open_tasks(pid) as folder:
        for tid in tids:
            try:
                text = read_file(f"{tid}/stat", 1024, folder=folder)
            except (FileNotFoundError, ProcessLookupError):
                continue
            yield parse_task(tid, text)


def read_cpu_time(pid: int, tid: int) -> float | None:
    """Return the seconds of CPU that a thread has used, to the nanosecond, or None where the kernel does not say.

    ``schedstat`` is exact where ``stat`` counts ticks of 10 ms; it needs CONFIG_SCHED_INFO.
    """
    try:
        return int(read_file(f"/proc/{pid}/task/{tid}/schedstat", 128).split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return None


def read_process_cpu_time(pid: int) -> float | None:
    """Return the seconds of CPU that all threads of a process have used, to the nanosecond and up to this very moment.

    The clock of another process may be read by anybody: clock_getcpuclockid(3), whose arithmetic this is.
    """
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return None


def read_system_call(pid: int, tid: int) -> SystemCall | None:
    """Return the system call the thread sits in, or None while it runs or where the kernel does not tell.

    Raises:
        NoSuchThread: it has no such thread (any more).
    """
    call = read_wait(pid, tid)
    return None if call is None or call.number == OUTSIDE else call


def read_wait(pid: int, tid: int) -> SystemCall | None:
    """Return the same, also for a thread that the kernel holds without its having called; errors as there."""
    try:
        text = read_file(f"/proc/{pid}/task/{tid}/syscall", 256)
    except (FileNotFoundError, ProcessLookupError):
        raise NoSuchThread(f"process {pid} has no thread {tid}") from None
    except OSError:
        return None
    return parse_system_call(text)


def parse_system_call(text: bytes) -> SystemCall | None:
    """Return what ``/proc/PID/task/TID/syscall`` says; None for "running"."""
    fields = text.split()
    if len(fields) not in (3, 9):  # three for a thread that is blocked outside a system call: "-1 SP PC"
        return None
    numbers = [int(value, 16) for value in fields[1:]]
    return SystemCall(int(fields[0]), tuple(numbers[:-2]), numbers[-2], numbers[-1])


def read_kernel_function(pid: int, tid: int) -> str | None:
    """Return the kernel's function in which a thread waits; None while it runs, and where we may not know."""
    try:
        function = read_file(f"/proc/{pid}/task/{tid}/wchan", 128).decode("ascii", "replace")
    except OSError:
        return None
    return function if function.strip("0") else None


def find_process(task: int) -> int:
    """Return the PID of the process that the thread belongs to.

    Raises:
        NoSuchThread: there is no thread with that id.
    """
    try:
        return read_status(task).tgid
    except NoSuchProcess:
        from threadsurgeon.linux.permission import explain_absence  # seldom needed

        absent = NoSuchThread(
            f"there is no thread {task}", hint="list the threads of a process with: threadsurgeon list PID"
        )
        raise explain_absence(task, absent) from None


def describe_process(pid: int) -> str | None:
    """Return ``process 812 (cat)``, None once it has ended or where we may not look."""
    try:
        return f"process {pid} ({read_status(pid).name})"
    except (NoSuchProcess, PermissionDenied):
        return None


def find_parent(pid: int) -> int | None:
    """Return the PID of the process's parent; None where there is none that we can see."""
    try:
        text = read_file(f"/proc/{pid}/stat", 1024)
    except OSError:
        return None
    return int(text[text.rindex(b")") + 2 :].split()[1]) or None


def is_alive(pid: int) -> bool:
    """Say whether the process lives: exists, and is neither a zombie nor dead."""
    try:
        return read_status(pid).state not in "ZXx"
    except NoSuchProcess:
        return False
