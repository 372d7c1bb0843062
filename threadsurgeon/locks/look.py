"""Looks twice at who waits for what, and draws it as a graph.

Only what both looks show, of a thread that did not run in between, is called proven.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from typing import NamedTuple

from threadsurgeon.cpython.joins import read_joinable
from threadsurgeon.cpython.lock_waits import LockWait, LockWaitReader
from threadsurgeon.cpython.reading import walk_together
from threadsurgeon.cpython.threads import Gil, read_gil
from threadsurgeon.inventory import Sighting, Target
from threadsurgeon.linux.blocked import read_blocked
from threadsurgeon.linux.memory import BadAddress
from threadsurgeon.linux.process import list_tids, read_process_cpu_time
from threadsurgeon.locks.advice import advise
from threadsurgeon.locks.deadlocks import find_deadlocks
from threadsurgeon.locks.holders import Holder, find_holders, find_takers
from threadsurgeon.locks.resources import JOINS, Resource, ResourceReader
from threadsurgeon.model.locks import Edge, Lock, WaitGraph
from threadsurgeon.model.threads import Thread

# A GIL that somebody asks for changes hands every 5 ms (sys.getswitchinterval), unless its holder is in C code.
FROZEN_SECONDS = 0.1
BETWEEN_LOOKS = 0.005
IMPORTS = "<frozen importlib._bootstrap>"
# pthread_mutex_t (nptl/bits/struct_mutex.h): __lock, which is 2 while somebody waits, __count, __owner.
_mutex = struct.Struct("<iIi")
MUTEX_WAITED_FOR = 2
NOBODY = "nobody is seen to hold it: it was taken by a thread that has ended, or outside of a `with` block"
NEEDS_MORE = {
    "Condition": "somebody must notify",
    "Event": "somebody must set it",
    "Barrier": "others must come",
    "Future": "somebody must finish it",
    "Semaphore": "somebody must release it; nobody is seen in a `with` block on it",
    "SimpleQueue": "somebody must put something in",
    "Queue": "",
}


class _Wait(NamedTuple):
    """A thread that waits. ``lock``: by which its resource is read again; ``owner``: its holder, where something names it."""

    sighting: Sighting
    lock: LockWait | None
    resource: Resource
    owner: Holder | None
    timed: bool


def find_wait_graph(pid: int) -> WaitGraph:
    """Return who waits for what in a process, and who holds it.

    Raises:
        ThreadsurgeonError: no such process, not CPython, not supported, or not permitted.
    """
    return _Look(Target(pid)).draw()


class LockWaits(NamedTuple):
    """Who waits for which lock, and who holds it: ``edges`` by waiter, ``locks`` by address, ``threads`` by TID."""

    edges: dict[int, list[Edge]]
    locks: dict[int, Lock]
    threads: dict[int, Thread]


def find_lock_waits(target: Target) -> LockWaits:
    """Return who waits for which lock. The GIL is none of them, and who waits for whom in a circle is not looked for.

    Raises:
        NoSuchProcess: it ended meanwhile.
    """
    look = _Look(target)
    edges, locks = look.find_lock_edges()
    target.check_is_same()
    by_waiter: dict[int, list[Edge]] = {}
    for edge in edges:
        by_waiter.setdefault(edge.waiter, []).append(edge)
    return LockWaits(by_waiter, {lock.address: lock for lock in locks}, look.threads)


class _Look:
    """One look at the locks of a target: first what each thread is blocked in, last whether it still is."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._pid = target.pid
        self._cpu_before = read_process_cpu_time(self._pid)
        self._before = {tid: read_blocked(self._pid, tid) for tid in list_tids(self._pid)}
        self._gils: dict[int, Gil] = {}
        self._same: dict[int, bool] = {}
        self._sightings = target.see_all()
        self.threads = {sighting.thread.tid: sighting.thread for sighting in self._sightings}
        self._tid_by_ident = {sighting.thread.ident: sighting.thread.tid for sighting in self._sightings}
        self._read_gils()

    def draw(self) -> WaitGraph:
        """Return the graph."""
        lock_edges, locks = self.find_lock_edges()
        gil_edges = self._find_gil_edges()
        edges = sorted(lock_edges + gil_edges, key=lambda edge: (edge.waiter, edge.holder or 0))
        locks += [_make_lock(address, group, None) for address, group in _group(gil_edges).items()]
        # One look at threads that move would see circles that never were.
        deadlocks = find_deadlocks(edge for edge in edges if (edge.proven if edge.kind == "GIL" else self._same[edge.waiter]))
        threads = tuple(sighting.thread for sighting in self._sightings)
        self._target.check_is_same()
        warnings = [self._target.runtime.problem] if self._target.runtime.problem else []
        if self._target.runtime.layout.free_threaded:
            warnings.append("a free-threaded build: who holds a lock without an owner is not looked for")
        advice = advise(threads, locks, edges, deadlocks)
        return WaitGraph(self._pid, threads, tuple(locks), tuple(edges), deadlocks, advice, tuple(warnings))

    def find_lock_edges(self) -> tuple[list[Edge], list[Lock]]:
        """Return who waits for which lock, and who holds it."""
        waits = self._find_lock_waits()
        wanted = {wait.resource.lock for wait in waits} - {0}
        holders = find_holders(self._target, self._sightings, wanted, self._slept)
        orphans: dict[int, set[int]] = {}
        for wait in waits:
            if wait.resource.kind == "Lock" and not holders.get(wait.resource.lock):
                orphans.setdefault(wait.resource.lock, set()).add(wait.sighting.thread.tid)
        for lock, taker in find_takers(self._target, self._sightings, orphans).items():
            holders[lock] = [taker]
        self._same = self._check_again(waits)
        edges = [edge for wait in waits for edge in self._make_edges(wait, holders, self._same)]
        resources = {wait.resource.address: wait.resource for wait in waits}
        return edges, [_make_lock(address, group, resources.get(address)) for address, group in _group(edges).items()]

    def _futex(self, sighting: Sighting) -> int:
        blocked = self._before.get(sighting.thread.tid)
        return blocked.futex if blocked is not None else 0

    def _slept(self, tid: int) -> bool:
        """Say whether a thread has not run at all from before its frames were read up to now."""
        now = read_blocked(self._pid, tid)
        return now is not None and now.has_slept_since(self._before.get(tid))

    def _find_lock_waits(self) -> list[_Wait]:
        """Return the threads that wait for a lock."""
        gils = [range(gil, gil + self._target.runtime.layout.gil_runtime_state.size) for gil in self._gils]
        sleeping = [s for s in self._sightings if self._futex(s) and not any(self._futex(s) in gil for gil in gils)]
        memory, runtime = self._target.memory, self._target.runtime
        reader = LockWaitReader(runtime)
        # One at each place first: what the others share with it (types, code, the lock itself) is then read once.
        alike = {tuple(raw.instruction for raw in s.raw_frames[:2]): s for s in sleeping}
        for group in (alike.values(), sleeping):
            walks = (reader.read_wait(self._futex(s), s.raw_frames, s.thread.frames) for s in group)
            locks = walk_together(memory, walks)
        joinable: dict[int, int] = {}
        if any(s.thread.frames[:1] and s.thread.frames[0].function.endswith(JOINS) for s in sleeping):
            for interpreter in {s.state.interpreter for s in sleeping}:
                joinable |= read_joinable(memory, runtime, reader.objects, interpreter)
        self._resources = ResourceReader(reader.objects, reader.locks, joinable)
        waits = []
        for sighting, lock, resource in zip(sleeping, locks, self._read_resources(locks), strict=True):
            blocked = self._before[sighting.thread.tid]
            assert blocked is not None
            if resource is not None:
                waits.append(_Wait(sighting, lock, resource, self._name_owner(resource), blocked.timed))
            elif (owner := self._find_mutex_owner(blocked.futex)) is not None:
                waits.append(_Wait(sighting, None, Resource("mutex", blocked.futex), owner, blocked.timed))
        return waits

    def _read_resources(self, locks: Sequence[LockWait | None]) -> list[Resource | None]:
        nothing = LockWait(0, 0, "", None, ())
        alike = {(lock.type_name, *(method.function for method in lock.methods)): lock for lock in locks if lock}
        for group in (alike.values(), locks):
            resources = walk_together(self._target.memory, (self._resources.read(lock or nothing) for lock in group))
        return resources

    def _name_owner(self, resource: Resource) -> Holder | None:
        """Return the thread that the object itself says it belongs to."""
        tid = self._tid_by_ident.get(resource.owner) if resource.owner else None
        if tid is None:
            return None
        if resource.kind == "Thread":
            return Holder(tid, True, f"it waits for the end of thread {tid}")
        # An ident is given to a new thread when its thread has ended: what the lock says may be about a thread that is gone.
        importing = any(frame.file == IMPORTS for frame in self.threads[tid].frames)
        if resource.kind == "import":
            return Holder(tid, importing, f"the module's lock says itself that it belongs to thread {tid}")
        return Holder(tid, False, f"the lock says that it belongs to thread {tid}, or to an ended one of the same ident")

    def _find_mutex_owner(self, futex: int) -> Holder | None:
        """Return the thread that holds a mutex of C code, if that is what stands there: it names its owner's TID."""
        try:
            word, _, owner = _mutex.unpack(self._target.memory.read(futex, _mutex.size))
        except BadAddress:
            return None
        tids = {s.thread.namespace_tid: s.thread.tid for s in self._sightings}
        if word != MUTEX_WAITED_FOR or owner not in tids:
            return None
        return Holder(tids[owner], False, f"what stands at {futex:#x} looks like a pthread_mutex_t of thread {tids[owner]}")

    def _check_again(self, waits: Sequence[_Wait]) -> dict[int, bool]:
        """Return who still waits, by TID; True: it has not run meanwhile, and what it waits for is as it was."""
        if self._cpu_before is not None and read_process_cpu_time(self._pid) == self._cpu_before:
            return {wait.sighting.thread.tid: wait.resource.locked is not False for wait in waits}  # nobody has run
        resources = self._read_resources([wait.lock for wait in waits])
        still = {}
        for wait, resource in zip(waits, resources, strict=True):
            tid = wait.sighting.thread.tid
            before, now = self._before[tid], read_blocked(self._pid, tid)
            if before is None or now is None or now.futex != before.futex:
                continue
            unchanged = wait.lock is None or resource == wait.resource
            still[tid] = unchanged and wait.resource.locked is not False and now.has_slept_since(before)
        return still

    def _make_edges(self, wait: _Wait, holders: dict[int, list[Holder]], same: dict[int, bool]) -> list[Edge]:
        tid, resource = wait.sighting.thread.tid, wait.resource
        if tid not in same:
            return []
        slept = "it has slept on the futex of it ever since" if same[tid] else "it has run between two looks"
        found = holders.get(resource.lock, [])
        if wait.owner is not None:  # a block of another thread's is none of this lock's any more
            found = [holder for holder in found if holder.tid == wait.owner.tid] or [wait.owner]
        if not same[tid]:  # it had the lock before, or was on its way to wait
            found = [holder for holder in found if holder.tid != tid]
        if not found:
            return [Edge(tid, None, resource.address, resource.kind, same[tid], wait.timed, slept)]
        return [
            Edge(
                waiter=tid,
                holder=holder.tid,
                lock=resource.address,
                kind=resource.kind,
                proven=same[tid] and holder.proven,
                timed=wait.timed,
                evidence=f"{slept}; {holder.evidence}",
            )
            for holder in found
        ]

    def _read_gils(self) -> None:
        layout = self._target.runtime.layout.gil_runtime_state
        for address in {sighting.state.interpreter.gil for sighting in self._sightings} - {0}:
            self._gils[address] = read_gil(self._target.memory, layout, address)

    def _find_gil_edges(self) -> list[Edge]:
        """Return who waits for a GIL that does not go round any more; waiting for one that does is what threads do."""
        edges = []
        for address, gil in self._gils.items():
            holder = next((s.thread.tid for s in self._sightings if s.state.address == gil.holder), None)
            if holder is None:
                continue
            evidence = f"the GIL has not left thread {holder} for {FROZEN_SECONDS:g} s, while it was asked for"
            edges += [Edge(tid, holder, address, "GIL", True, False, evidence) for tid in self._watch(gil, holder)]
        return edges

    def _watch(self, gil: Gil, holder: int) -> list[int]:
        """Return the threads that ask for a GIL; none if it goes round, or nobody does.

        Who asks for it wakes every 5 ms, and may be seen running. As long as the GIL does not move, nobody has got it.
        """
        place = range(gil.address, gil.address + self._target.runtime.layout.gil_runtime_state.size)
        tids = [s.thread.tid for s in self._sightings if s.thread.tid != holder]
        unsure = {tid for tid in tids if (blocked := self._before.get(tid)) is None or blocked.futex in place}
        asking: list[int] = []
        until = time.monotonic() + FROZEN_SECONDS
        while unsure or asking:
            for tid in list(unsure):
                blocked = read_blocked(self._pid, tid)
                if blocked is not None and blocked.futex in place:
                    asking.append(tid)
                    unsure.remove(tid)
            if not self._is_same(gil):
                return []
            if time.monotonic() >= until:
                break
            time.sleep(BETWEEN_LOOKS)
        return asking

    def _is_same(self, gil: Gil) -> bool:
        return read_gil(self._target.memory, self._target.runtime.layout.gil_runtime_state, gil.address) == gil


def _group(edges: Sequence[Edge]) -> dict[int, list[Edge]]:
    groups: dict[int, list[Edge]] = {}
    for edge in edges:
        groups.setdefault(edge.lock, []).append(edge)
    return groups


def _make_lock(address: int, edges: Sequence[Edge], resource: Resource | None) -> Lock:
    holders = {edge.holder for edge in edges} - {None}
    note = ""
    if len(holders) > 1:
        note = "held by threads " + ", ".join(map(str, sorted(holder for holder in holders if holder is not None)))
    elif not holders and resource is not None:
        note = _explain_no_holder(resource)
    return Lock(
        address=address,
        kind=edges[0].kind,
        detail=resource.detail if resource is not None else "",
        holder=next(iter(holders)) if len(holders) == 1 else None,
        waiters=tuple(dict.fromkeys(edge.waiter for edge in edges)),
        note=note,
    )


def _explain_no_holder(resource: Resource) -> str:
    if resource.kind in NEEDS_MORE:
        if resource.kind == "Queue" and resource.detail:
            return f"somebody must {'take something out' if resource.detail.startswith('full') else 'put something in'}"
        return NEEDS_MORE[resource.kind]
    if resource.owner:
        return f"nobody holds it: its owner ({resource.owner:#x}) has ended"
    if resource.locked is False or resource.owner == 0:
        return "it is free at this moment"
    return NOBODY
