"""The facts that all layers exchange, as named tuples: a thousand of them are made to list a thousand threads.

Nothing here reads, writes or prints.
"""

# No `from __future__ import annotations`: NamedTuple would compile each annotation, every time we start.

from enum import Enum
from typing import NamedTuple


class Frame(NamedTuple):
    """One Python frame. ``line`` is None where it cannot be told, as in a frame that has not started yet."""

    function: str
    file: str
    line: int | None

    def __str__(self) -> str:
        return f"{self.function} ({self.file}:{self.line if self.line is not None else '?'})"


class NativeCall(NamedTuple):
    """One native frame: where code of a mapped file is in a call, or at its next instruction.

    ``function`` is the name that the file exports for that code, None where it exports none. ``offset``: in bytes, of the
    address in the file's own numbering, as ``addr2line`` and ``objdump`` take it. Both ``file`` and ``offset`` are None where
    the address is in no file.
    """

    function: str | None
    file: str | None
    offset: int | None

    def __str__(self) -> str:
        place = f"{self.file.rpartition('/')[2]}+{self.offset:#x}" if self.file and self.offset is not None else "no file"
        return f"{self.function or '?'} ({place})"


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
    def is_for_lock(self) -> bool:
        """Whether it ends by what another thread does, and no other but that one."""
        return self.kind in _LOCKS

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


class NativeStack(NamedTuple):
    """One thread with its native and its Python frames in one list, innermost first, as of one moment.

    The Python frames stand in the place of the eval loop that runs them. ``stopped_seconds``: how long this thread was stopped
    for it; no other was. ``warnings`` say where the stack could not be followed, or frames could not be placed.
    """

    thread: Thread
    merged: tuple[Frame | NativeCall, ...]
    stopped_seconds: float
    debugger: str
    warnings: tuple[str, ...] = ()


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


class Outcome(str, Enum):
    """What was seen after operating. Not being able to operate is an exception instead (see ``errors``)."""

    ENDED = "ended"
    UNWOUND = "unwound"
    SURVIVED = "survived"
    PENDING = "pending"
    TARGET_DIED = "target-died"

    @property
    def exit_status(self) -> int:
        """The exit status that tells a shell this outcome."""
        return {"ended": 0, "unwound": 0, "survived": 3, "pending": 4, "target-died": 6}[self.value]

    @property
    def is_success(self) -> bool:
        """Whether the thread no longer does what it did, and the process lives."""
        return self.exit_status == 0


class Attempt(NamedTuple):
    """One technique, tried once."""

    technique: str
    outcome: str
    seconds: float


class Rung(NamedTuple):
    """One technique that an operation may use: when it does, and what the technique may leave behind."""

    technique: str
    when: str
    leaves_behind: str


class Plan(NamedTuple):
    """What would be done to a thread and why (``--dry-run``); made by looking only.

    ``techniques`` are tried first; ``rungs`` are all that the operation may climb to, those included.
    """

    pid: int
    tid: int
    ident: int | None
    name: str | None
    exception: str
    techniques: tuple[str, ...]
    doing: str
    reason: str
    leaves_behind: str
    stack: tuple[Frame, ...]
    warnings: tuple[str, ...] = ()
    rungs: tuple[Rung, ...] = ()
    holds: tuple[str, ...] = ()


class Report(NamedTuple):
    """What was done to a thread and what was seen afterwards, from outside.

    ``stopped_seconds`` is how long the victim was stopped by us, all stops added; no other thread is ever stopped.
    ``skipped``: the frames whose ``except``, ``finally`` and ``with`` blocks were left out. ``cut``: the native frames that
    were removed, innermost first. ``debugger``: which gdb did it, as in ``gdb 13.1``; None where none was needed.
    """

    pid: int
    tid: int
    ident: int | None
    name: str | None
    outcome: Outcome
    technique: str | None
    exception: str
    attempts: tuple[Attempt, ...]
    stopped_seconds: float
    seconds: float
    process_alive: bool
    stack_before: tuple[Frame, ...]
    stack_after: tuple[Frame, ...]
    detail: str
    evidence: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    skipped: tuple[Frame, ...] = ()
    cut: tuple[str, ...] = ()
    debugger: str | None = None


class Lock(NamedTuple):
    """Something that threads wait for: a lock, and what is made of locks.

    ``kind``: ``Lock``, ``RLock``, ``Condition``, ``Semaphore``, ``Event``, ``Barrier``, ``Queue``, ``SimpleQueue``,
    ``Future``, ``Thread`` (a ``join``), ``import`` (of one module), ``GIL``, or ``mutex`` (of C code).
    ``address``: of the object; of the mutex; of the GIL's struct; of a Queue, that of the Condition which the wait is about.
    ``detail``: the module's or the thread's name, how full a queue is; empty where there is nothing to say.
    ``holder``: a TID; None where nobody holds it, several do, or none is seen to (``note`` says which).
    ``waiters``: TIDs.
    """

    address: int
    kind: str
    detail: str
    holder: int | None
    waiters: tuple[int, ...]
    note: str = ""


class Edge(NamedTuple):
    """A thread that waits, and one that it waits for; ``holder`` is None where that is not known, or nobody.

    ``proven``: both were seen to be so at the same time, while the waiter did not run at all; else it is inferred.
    ``evidence``: what that rests on. ``timed``: the wait ends by itself after some time.
    """

    waiter: int
    holder: int | None
    lock: int
    kind: str
    proven: bool
    timed: bool
    evidence: str


class Deadlock(NamedTuple):
    """Threads that wait for each other for ever, the last one for the first. ``proven``: every edge is."""

    threads: tuple[int, ...]
    locks: tuple[int, ...]
    proven: bool


class Advice(NamedTuple):
    """What hangs the process, and the command to type next."""

    text: str
    command: str


class WaitGraph(NamedTuple):
    """Who waits for what, and who holds it, in one process at one moment. ``threads`` are all that have Python state."""

    pid: int
    threads: tuple[Thread, ...]
    locks: tuple[Lock, ...]
    edges: tuple[Edge, ...]
    deadlocks: tuple[Deadlock, ...]
    advice: tuple[Advice, ...]
    warnings: tuple[str, ...] = ()


class CheckStatus(str, Enum):
    """How a check of ``doctor`` came out. ``skipped``: it could not be made, and says why."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


class Check(NamedTuple):
    """One thing that operating depends on: the value found, and what would help where it is not as it should be."""

    name: str
    status: CheckStatus
    value: str
    remedy: str | None = None


class Diagnosis(NamedTuple):
    """Whether operating would work here, and with ``pid`` on that process; checks in the order in which to mend them."""

    pid: int | None
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether operating would work."""
        return all(check.status is not CheckStatus.FAILED for check in self.checks)
