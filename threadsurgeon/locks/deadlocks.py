"""Finds threads that wait for each other."""

from __future__ import annotations

from collections.abc import Iterable

from threadsurgeon.model.locks import Deadlock, Edge


def find_deadlocks(edges: Iterable[Edge]) -> tuple[Deadlock, ...]:
    """Return the deadlocks among the edges. A wait that ends by itself is part of none.

    A thread that waits for one of several holders (of a Semaphore) is only lost if all of them are.
    """
    waits: dict[int, list[Edge]] = {}
    for edge in edges:
        waits.setdefault(edge.waiter, []).append(edge)
    lost = {waiter: group for waiter, group in waits.items() if all(e.holder is not None and not e.timed for e in group)}
    changed = True
    while changed:  # who waits for a thread that is not lost is not lost
        free = {waiter for waiter, group in lost.items() if any(edge.holder not in lost for edge in group)}
        lost = {waiter: group for waiter, group in lost.items() if waiter not in free}
        changed = bool(free)
    while True:  # who is only in the queue behind a deadlock is not part of it
        waited_for = {edge.holder for group in lost.values() for edge in group}
        if waited_for >= set(lost):
            break
        lost = {waiter: group for waiter, group in lost.items() if waiter in waited_for}
    deadlocks = []
    while lost:
        members = _follow(lost, min(lost))
        groups = [lost.pop(member) for member in members]
        proven = all(edge.proven for group in groups for edge in group)
        locks = tuple(dict.fromkeys(edge.lock for group in groups for edge in group))
        deadlocks.append(Deadlock(tuple(members), locks, proven))
    return tuple(deadlocks)


def _follow(lost: dict[int, list[Edge]], first: int) -> list[int]:
    """Return the threads that the first one waits for, and those wait for, and so on, itself included."""
    members = [first]
    for member in members:  # it grows meanwhile
        members += dict.fromkeys(
            edge.holder for edge in lost[member] if edge.holder in lost and edge.holder not in members
        )
    return members
