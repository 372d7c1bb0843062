"""Tells a graph of waits in words, and draws it for graphviz."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from threadsurgeon.locks.advice import find_place, plural
from threadsurgeon.model.locks import Deadlock, Edge, Lock, WaitGraph
from threadsurgeon.model.threads import Thread

MAX_NAMED = 6  # threads: the rest are counted
MAX_SHOWN = 20  # locks that somebody holds; and as many that nobody does


def summarise(graph: WaitGraph) -> str:
    """Return the whole in one line."""
    waiting = len({edge.waiter for edge in graph.edges})
    if graph.deadlocks:
        sizes = [len(deadlock.threads) for deadlock in graph.deadlocks]
        threads = plural(sum(sizes), "thread")
        return f"deadlock of {threads}" if len(sizes) == 1 else f"{len(sizes)} deadlocks, of {threads} together"
    if not waiting:
        return "no deadlock; no thread waits for another one"
    verb = "waits" if waiting == 1 else "wait"
    return f"no deadlock; {plural(waiting, 'thread')} {verb} for {plural(len(graph.locks), 'thing')}"


def tell(graph: WaitGraph) -> Iterator[tuple[str, list[str]]]:
    """Yield the paragraphs: a heading, and its lines."""
    known = {thread.tid: thread for thread in graph.threads}
    by_waiter: dict[int, list[Edge]] = {}
    by_lock: dict[int, list[Edge]] = {}
    for edge in graph.edges:
        by_waiter.setdefault(edge.waiter, []).append(edge)
        by_lock.setdefault(edge.lock, []).append(edge)
    locks = {lock.address: lock for lock in graph.locks}
    for deadlock in graph.deadlocks:
        threads = plural(len(deadlock.threads), "thread")
        yield f"deadlock of {threads}, {_proof(deadlock.proven)}", list(_tell_deadlock(deadlock, by_waiter, locks, known))
    told = {address for deadlock in graph.deadlocks for address in deadlock.locks}
    # A lock in a deadlock is told once more where others are in the queue for it.
    held = [lock for lock in graph.locks if lock.holder is not None and not (lock.address in told and len(lock.waiters) == 1)]
    held.sort(key=lambda lock: -len(lock.waiters))
    if held:
        lines = [_tell_lock(lock, by_lock[lock.address], known) for lock in held[:MAX_SHOWN]]
        yield "held by another thread", [*lines, *_more(len(held))]
    rest = [lock for lock in graph.locks if lock.holder is None and lock.address not in told]
    rest.sort(key=lambda lock: (lock.kind not in ("Lock", "RLock"), -len(lock.waiters)))
    if rest:
        lines = [_tell_lock(lock, by_lock[lock.address], known) for lock in rest[:MAX_SHOWN]]
        yield "not held by one thread", [*lines, *_more(len(rest))]


def draw(graph: WaitGraph) -> str:
    """Return the graph in graphviz's language: an arrow from each waiter to whom it waits for; dashed ones are inferred."""
    known = {thread.tid: thread for thread in graph.threads}
    lost = {tid for deadlock in graph.deadlocks for tid in deadlock.threads}
    locks = {lock.address: lock for lock in graph.locks}
    lines = [f'digraph "process {graph.pid}" {{', "  node [shape=box];"]
    tids = {tid for edge in graph.edges for tid in (edge.waiter, edge.holder) if tid is not None}
    for tid in sorted(tids):
        thread = known.get(tid)
        place = find_place(thread) if thread is not None else None
        label = "\n".join(filter(None, [_name(tid, known), _short(str(place)) if place is not None else ""]))
        lines.append(f"  {tid} [label={_quote(label)}{', color=red' if tid in lost else ''}];")
    for lock in graph.locks:
        if lock.holder is None:
            lines.append(f"  {_quote(hex(lock.address))} [label={_quote(_lock(lock))}, shape=ellipse];")
    for edge in graph.edges:
        target = str(edge.holder) if locks[edge.lock].holder is not None else _quote(hex(edge.lock))
        style = "" if edge.proven else ", style=dashed"
        colour = ", color=red" if edge.waiter in lost and edge.holder in lost else ""
        label = _quote(_lock(locks[edge.lock])) if locks[edge.lock].holder is not None else '""'
        lines.append(f"  {edge.waiter} -> {target} [label={label}{style}{colour}];")
    for edge in graph.edges:  # where several hold it, an arrow to each
        if edge.holder is not None and locks[edge.lock].holder is None:
            lines.append(f"  {_quote(hex(edge.lock))} -> {edge.holder};")
    return "\n".join([*dict.fromkeys(lines), "}"])


def _tell_deadlock(
    deadlock: Deadlock, by_waiter: dict[int, list[Edge]], locks: dict[int, Lock], known: dict[int, Thread]
) -> Iterator[str]:
    for tid in deadlock.threads[:MAX_SHOWN]:
        for edge in by_waiter[tid]:
            holder = "itself" if edge.holder == tid else f"thread {_name(edge.holder, known)}"
            yield f"thread {_name(tid, known)} waits{_where(tid, known)}"
            yield f"    for {_lock(locks[edge.lock])}, held by {holder} ({_proof(edge.proven)}: {_short(edge.evidence)})"
    yield from _more(len(deadlock.threads))


def _tell_lock(lock: Lock, edges: Sequence[Edge], known: dict[int, Thread]) -> str:
    waiters = ", ".join(_name(tid, known) for tid in lock.waiters[:MAX_NAMED])
    if len(lock.waiters) > MAX_NAMED:
        waiters += f" and {len(lock.waiters) - MAX_NAMED} more"
    who = f"{plural(len(lock.waiters), 'thread')} wait{'s' if len(lock.waiters) == 1 else ''}: {waiters}"
    if lock.holder is None:
        return f"{_lock(lock)}: {lock.note}; {who}"
    certain = all(edge.proven for edge in edges)
    where = _where(lock.holder, known)
    return f"{_lock(lock)}, held by thread {_name(lock.holder, known)}{where} ({_proof(certain)}); {who}"


def _where(tid: int, known: dict[int, Thread]) -> str:
    place = find_place(known[tid]) if tid in known else None
    return f" in {_short(str(place))}" if place is not None else ""


def _lock(lock: Lock) -> str:
    names = {"Thread": "the end of a thread", "import": f"the import of {lock.detail}", "GIL": "the GIL", "mutex": "a C mutex"}
    name = names.get(lock.kind, f"{lock.kind} {lock.address:#x}")
    return f"{name} ({lock.detail})" if lock.detail and lock.kind not in names else name


def _name(tid: int | None, known: dict[int, Thread]) -> str:
    thread = known.get(tid) if tid is not None else None
    return f"{tid} ({thread.name})" if thread is not None and thread.name else str(tid)


def _proof(proven: bool) -> str:
    return "proven" if proven else "inferred"


def _more(count: int) -> list[str]:
    return [f"… and {count - MAX_SHOWN} more"] if count > MAX_SHOWN else []


def _short(text: str) -> str:
    """Return the text without the folders of the files that it names."""
    return " ".join(
        word[0] + os.path.basename(word) if word.startswith("(/") else word for word in text.split(" ")
    )


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
