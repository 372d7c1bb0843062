"""Who waits for what, and who holds it."""

from typing import NamedTuple

from threadsurgeon.model.threads import Thread


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
