"""What hangs a process, and what to type next."""

from __future__ import annotations

import os
from collections.abc import Sequence

from threadsurgeon.cpython.lock_waits import WAITING_FILES
from threadsurgeon.model.locks import Advice, Deadlock, Edge, Lock
from threadsurgeon.model.threads import Frame, Thread

POOL = "concurrent/futures/thread.py"
MANY = 2  # from this many on, threads at the same line are worth a word


def advise(
    threads: Sequence[Thread], locks: Sequence[Lock], edges: Sequence[Edge], deadlocks: Sequence[Deadlock]
) -> tuple[Advice, ...]:
    """Return what to do, the most urgent first; empty where no thread hangs another one."""
    known = {thread.tid: thread for thread in threads}
    waits_for = {edge.waiter: edge.holder for edge in edges if edge.holder is not None}
    advice = [_break(deadlock, known, waits_for) for deadlock in deadlocks]
    lost = {tid for deadlock in deadlocks for tid in deadlock.threads}
    for lock in locks:
        if lock.holder is not None and lock.holder not in waits_for and lock.holder not in lost and lock.holder in known:
            advice.append(_free(lock, known[lock.holder]))
        elif lock.holder is None and lock.kind in ("Lock", "RLock") and not lock.note.startswith(("held", "it is free")):
            advice.append(_give_up(lock, known))
    return (*advice, *_find_starved_pools(threads))


def find_place(thread: Thread) -> Frame | None:
    """Return where a thread is in the program's own code: the innermost frame that is not one of waiting as such."""
    own = (frame for frame in thread.frames if not frame.file.endswith(WAITING_FILES))
    return next(own, thread.frames[0] if thread.frames else None)


def _break(deadlock: Deadlock, known: dict[int, Thread], waits_for: dict[int, int]) -> Advice:
    """Choose the thread that is the least loss: any one of them breaks the deadlock."""

    def loss(tid: int) -> tuple[bool, bool, bool, float, int]:
        thread = known[tid]
        importing = any(frame.function == "_load_unlocked" for frame in thread.frames)  # what it has begun stays half done
        return thread.main, importing, not (thread.pool_worker or thread.daemon), thread.cpu_seconds or 0.0, tid

    victim = known[min((tid for tid in deadlock.threads if tid in known), key=loss)]
    behind = _count_behind(set(deadlock.threads), waits_for)
    others = f", and {plural(behind, 'more thread')} behind them" if behind else ""
    if len(deadlock.threads) == 1:
        text = f"deadlock: thread {_name(victim)} waits for a lock that it holds itself{others}; end that wait"
    else:
        text = f"deadlock of {plural(len(deadlock.threads), 'thread')}{others}: the least loss is thread {_name(victim)}"
    return Advice(text, _cancel(victim))


def _free(lock: Lock, holder: Thread) -> Advice:
    count, place = plural(len(lock.waiters), "thread"), find_place(holder)
    where = f" in {_place(place)}" if place is not None else ""
    verb = "waits" if len(lock.waiters) == 1 else "wait"
    if lock.kind == "GIL":
        # C code that keeps the GIL does not notice an exception: kill goes on to harder means.
        text = f"frozen: thread {_name(holder)} keeps the GIL{where}, {count} {verb} for it"
        return Advice(text, f"threadsurgeon kill {holder.tid}" + (" --main" if holder.main else ""))
    text = f"{count} {verb} for thread {_name(holder)}, which is{where}: see what it does; cancel {holder.tid} would end it"
    return Advice(text, f"threadsurgeon stack {holder.tid}")


def _give_up(lock: Lock, known: dict[int, Thread]) -> Advice:
    waiters = plural(len(lock.waiters), "waiting thread")
    text = f"{lock.kind} {lock.address:#x}: {lock.note}; its {waiters} can only be made to give up"
    return Advice(text, _cancel(known[lock.waiters[0]]))


def _find_starved_pools(threads: Sequence[Thread]) -> list[Advice]:
    """Return a word on each line at which several workers of a ThreadPoolExecutor are, that is not their waiting for work."""
    workers = [thread for thread in threads if thread.pool_worker]
    stuck: dict[Frame, list[Thread]] = {}
    for worker in workers:
        place = find_place(worker)
        if place is not None and not place.file.endswith(POOL):
            stuck.setdefault(place, []).append(worker)
    return [
        Advice(
            f"{len(group)} of {plural(len(workers), 'pool worker')} are at the same line: {_place(place)}",
            _cancel(group[0]),
        )
        for place, group in stuck.items()
        if len(group) >= MANY and 2 * len(group) >= len(workers)
    ]


def _count_behind(lost: set[int], waits_for: dict[int, int]) -> int:
    """Count the threads that wait for a lost one, directly or through others."""
    waiting: dict[int, list[int]] = {}
    for waiter, holder in waits_for.items():
        waiting.setdefault(holder, []).append(waiter)
    found = list(lost)
    seen = set(lost)
    for tid in found:  # it grows meanwhile
        new = [waiter for waiter in waiting.get(tid, ()) if waiter not in seen]
        seen.update(new)
        found += new
    return len(found) - len(lost)


def _cancel(thread: Thread) -> str:
    return f"threadsurgeon cancel {thread.tid}" + (" --main" if thread.main else "")


def _name(thread: Thread) -> str:
    return f"{thread.tid} ({thread.name})" if thread.name else str(thread.tid)


def _place(frame: Frame) -> str:
    return f"{frame.function} ({os.path.basename(frame.file)}:{frame.line if frame.line is not None else '?'})"


def plural(number: int, what: str) -> str:
    """Return a number of things in words."""
    return f"{number} {what}{'' if number == 1 else 's'}"
