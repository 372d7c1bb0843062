"""Says of threads that wait for a lock which lock that is, and who holds it: one more look, as ``locks`` takes it."""

from __future__ import annotations

from collections.abc import Sequence

from threadsurgeon.errors import UnreadableTarget
from threadsurgeon.inventory import Target
from threadsurgeon.linux.memory import BadAddress
from threadsurgeon.locks.look import LockWaits, find_lock_waits
from threadsurgeon.model.locks import Edge, Lock
from threadsurgeon.model.threads import Thread, Wait

# The kinds of waits, by the kinds of what is waited for.
_KINDS = {"Lock": "lock", "RLock": "lock", "mutex": "lock", "Semaphore": "semaphore", "import": "import", "Thread": "thread"}


def name_locks(target: Target, threads: Sequence[Thread]) -> tuple[Thread, ...]:
    """Return the threads, those that wait for a lock with its address and its holder.

    Raises:
        NoSuchProcess: it ended meanwhile.
    """
    if any(thread.waits_for_lock for thread in threads):
        try:
            found = find_lock_waits(target)
        except (BadAddress, UnreadableTarget):  # it changed under every try; what is known without is still true
            return tuple(threads)
        threads = [_name_lock(thread, found) for thread in threads]
    return tuple(threads)


def _name_lock(thread: Thread, found: LockWaits) -> Thread:
    wait, edges = thread.waits_for, found.edges.get(thread.tid, [])
    # It may have gone on between the two looks, and wait for something else now.
    if wait is None or not edges or _KINDS.get(edges[0].kind) != wait.kind:
        return thread
    lock = found.locks[edges[0].lock]
    if len(edges) > 1 or edges[0].holder is None:  # several are in a block on it, or nobody is
        named = wait._replace(detail=_describe(wait, lock, None, found), lock=lock.address)
    else:
        (edge,) = edges
        detail = _describe(wait, lock, edge, found)
        named = wait._replace(detail=detail, lock=lock.address, holder=edge.holder, proven=edge.proven)
    return thread._replace(waits_for=named)


def _describe(wait: Wait, lock: Lock, edge: Edge | None, found: LockWaits) -> str:
    """Return the wait in words, the holder before the address: a table may have no room for both."""
    holder = edge.holder if edge is not None else None
    thread = found.threads.get(holder) if holder is not None else None
    who = f"{holder} ({thread.name})" if thread is not None and thread.name else f"thread {holder}"
    if lock.kind == "Thread":
        return f"waiting for {who} to end" if holder is not None else wait.detail
    names = {"import": f"the import of {lock.detail}", "mutex": "a mutex of C code", "RLock": "an RLock"}
    what = names.get(lock.kind, f"a {lock.kind}")
    if not wait.detail.endswith((" a lock", " a semaphore", " import")):  # it says more, such as whose lock that is
        what = wait.detail.removeprefix("waiting for ")
    if edge is not None:
        held = f"{'' if edge.proven else 'probably '}held by {'itself' if holder == edge.waiter else who}"
    else:
        held = lock.note if lock.note.startswith("held") else "that nobody is seen to hold"
    return f"waiting for {what} {held}" + ("" if lock.kind == "import" else f", at {lock.address:#x}")
