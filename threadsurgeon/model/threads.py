"""Threads, where they are, and what they wait for."""

# No `from __future__ import annotations`: NamedTuple would compile each annotation, every time we start.

from typing import NamedTuple


class Frame(NamedTuple):
    """One Python frame. ``line`` is None where it cannot be told, as in a frame that has not started yet."""

    function: str
    file: str
    line: int | None

    def __str__(self) -> str:
        return f"{self.function} ({self.file}:{self.line if self.line is not None else '?'})"


class Wait(NamedTuple):
    """What a thread waits for, as the kernel and its Python stack show it.

    ``kind`` is one of: gil, lock, condition, event, semaphore, barrier, queue, thread, future, work, import, sleep, read,
    write, receive, send, accept, connect, readiness, event-loop, child, file-lock, open, sync, device, signal, io-uring,
    page-fault, stopped, traced, system-call. ``detail`` says it in words. ``seconds``: for how long the thread has not run
    at all; ``remaining_seconds``: when at most it goes on by itself. Both are None where that is not known.

    ``lock``: the address of what it waits for; ``holder``: the TID of the thread that holds it (of a ``join``: that is to
    end), and ``proven`` whether that was seen while neither ran. None where it waits for no lock, or no one thread is seen
    to hold it.
    """

    kind: str
    detail: str
    seconds: float | None = None
    remaining_seconds: float | None = None
    lock: int | None = None
    holder: int | None = None
    proven: bool | None = None

    @property
    def text(self) -> str:
        """The whole in words: ``sleeping, 59 of 60 s left``."""
        waited, left = self.seconds, self.remaining_seconds
        if left is not None and waited is not None and waited + left < 600:
            return f"{self.detail}, {left:.0f} of {waited + left:.0f} s left"
        if left is not None:
            return f"{self.detail}, {_duration(left)} left"
        if waited is not None and waited >= 1:
            return f"{self.detail}, {_duration(waited)}"
        return self.detail


def _duration(seconds: float) -> str:
    whole = round(seconds)
    for size, unit, smaller_size, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= 2 * size:
            return f"{whole // size} {unit} {whole % size // smaller_size} {smaller}"
    return f"{whole} s"


_LOCKS = frozenset({"lock", "semaphore", "import", "thread"})
# What a server's threads do while there is nothing to do.
_IDLE = frozenset({"work", "accept", "event-loop"})
_BUSY_PERCENT = 10.0
_STUCK_SECONDS = 10.0


class Thread(NamedTuple):
    """One OS thread of the target, with what Python knows of it where it has Python state.

    ``tid`` is the kernel's, as seen from here; ``namespace_tid`` the one the target itself sees (in a container they
    differ). ``ident`` is what Python shows as ``Thread.ident``: the ``pthread_t``. ``start_time`` (clock ticks since
    boot, from ``/proc/PID/task/TID/stat``) makes the TID unique: TIDs are reused. ``frames`` are innermost first.

    A core file tells less: of a thread from there ``state`` and ``native_name`` are empty where they are not known,
    ``cpu_seconds`` None, and ``start_time`` 0.
    """

    tid: int
    namespace_tid: int
    start_time: int
    native_name: str
    state: str
    cpu_seconds: float | None
    cpu_percent: float | None
    main: bool
    python: bool = False
    ident: int | None = None
    name: str | None = None
    daemon: bool | None = None
    interpreter: int | None = None
    holds_gil: bool = False
    pool_worker: bool = False
    frames: tuple[Frame, ...] = ()
    waits_for: Wait | None = None

    @property
    def waits_for_lock(self) -> bool:
        """Whether it is a Python thread whose wait ends by what another thread does, and no other but that one."""
        return self.python and self.waits_for is not None and self.waits_for.kind in _LOCKS

    @property
    def activity(self) -> str | None:
        """What was seen of it: ``busy``, ``idle``, ``stuck``, or None for nothing of these.

        Busy: it used a tenth of a CPU or more while we looked. Idle: it waits for work, a connection, or an event loop's
        events. Stuck: it has not run at all for ten seconds or more, in a wait that nothing but another can end, and is
        not idle.
        """
        if self.cpu_percent is not None and self.cpu_percent >= _BUSY_PERCENT:
            return "busy"
        wait = self.waits_for
        if wait is None:
            return None
        if wait.kind in _IDLE:
            return "idle"
        endless = wait.seconds is not None and wait.seconds >= _STUCK_SECONDS and wait.remaining_seconds is None
        return "stuck" if endless and wait.kind != "sleep" else None


class Python(NamedTuple):
    """Which CPython the target runs: ``version`` as in ``3.12.1``, ``build`` one of release, debug, free-threaded…"""

    version: str
    build: str
    executable: str


class Listing(NamedTuple):
    """All threads of one process at one moment, main thread first, then by TID. ``core``: the core file that shows it."""

    pid: int
    python: Python
    threads: tuple[Thread, ...]
    gil_holder: int | None
    warnings: tuple[str, ...] = ()
    core: str | None = None
