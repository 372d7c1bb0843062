"""What `locks` says of processes that know who waits for whom is true, on every CPython."""

from __future__ import annotations

from tests.integration.lock_scripts import (
    ANSWERS,
    DEADLOCKS,
    EDGES,
    EVERYTHING,
    START,
    assert_lives_on,
    edges,
    not_traced,
    settle,
)
from tests.zoo.pythons import Python
from tests.zoo.script import script
from tests.zoo.victim import waiting
from threadsurgeon import find_locks, find_thread, list_threads

FUTEX = 202


def test_every_kind_of_wait_is_found(python: Python) -> None:
    """Two and three threads in a circle, one with itself, two that join each other; locks, queues and the rest."""
    with script(python, EVERYTHING) as victim:
        settle(victim)
        graph = find_locks(victim.pid)
        names = {thread.tid: thread.name for thread in graph.threads}
        notes = {lock.kind: lock.note for lock in graph.locks if lock.kind == "Lock" and lock.holder is None}
        details = {lock.detail for lock in graph.locks}
        deadlocks = [{names[tid] for tid in deadlock.threads} for deadlock in graph.deadlocks]
        timed = [names[edge.waiter] for edge in graph.edges if edge.timed]

        assert edges(graph) == EDGES
        assert [names[edge.waiter] for edge in graph.edges if not edge.proven] == []
        assert len(deadlocks) == len(DEADLOCKS)
        assert all(deadlock in deadlocks for deadlock in DEADLOCKS)
        assert all(deadlock.proven for deadlock in graph.deadlocks)
        assert "ended" in notes["Lock"]
        assert {"full: 2 of 2", "empty"} <= details
        assert timed == ["timed"]
        assert_lives_on(victim)


def test_listing_and_stack_name_the_lock_and_its_holder(python: Python) -> None:
    """The same as the graph says, where somebody can be the holder; the rest is left as it is."""
    with script(python, EVERYTHING) as victim:
        settle(victim)
        listed = {thread.name: thread for thread in list_threads(victim.pid).threads}
        tids = {name: thread.tid for name, thread in listed.items()}
        graph = find_locks(victim.pid)
        found = {(edge.waiter, edge.holder, edge.lock) for edge in graph.edges}
        one = find_thread(tids["behind"]).waits_for

        for waiter, holder, kind in EDGES:
            wait = listed[waiter].waits_for
            assert wait is not None, waiter
            assert wait.holder == (tids[holder] if holder else None), (waiter, wait)
            assert wait.proven == (True if holder else None), (waiter, wait)
            if kind in ("Lock", "RLock", "Thread"):
                assert (tids[waiter], wait.holder, wait.lock) in found
            if kind in ("Lock", "RLock"):
                assert f" {kind} " in wait.detail
                assert wait.detail.endswith(f", at {wait.lock:#x}")
        assert one is not None
        assert one.detail == listed["behind"].waits_for.detail == (
            f"waiting for a Lock held by {tids['forward']} (forward), at {one.lock:#x}"
        )
        assert listed["left"].waits_for.detail == f"waiting for {tids['right']} (right) to end"
        assert listed["itself"].waits_for.detail.startswith("waiting for a Lock held by itself")
        assert listed["lost"].waits_for.detail.startswith("waiting for a Lock that nobody is seen to hold")
        assert_lives_on(victim)


def test_owner_of_an_rlock_may_be_another_thread_of_the_same_ident(python: Python) -> None:
    """Idents are given to new threads: an RLock without a `with` block of its owner's is no proof."""
    code = """
lock, go = threading.RLock(), threading.Event()
def wait():
    go.wait()
    lock.acquire()
start("waits", wait)
threads["waits"].start()
thread = threading.Thread(target=lock.acquire)
thread.start()
thread.join()
start("innocent", time.sleep, 100000)
threads["innocent"].start()
go.set()
"""
    with script(python, START + code + ANSWERS) as victim:
        settle(victim, victim.tids[:1])
        graph = find_locks(victim.pid)

        assert [(edge.kind, edge.proven and edge.holder is not None) for edge in graph.edges] == [("RLock", False)]
        assert_lives_on(victim)


def test_lock_given_back_inside_its_block_is_not_proven_to_be_held(python: Python) -> None:
    """Code may release a lock before it leaves the `with` block: then somebody else has it, who cannot be seen."""
    code = """
lock, is_free, is_taken = threading.Lock(), threading.Event(), threading.Event()
def lets_go():
    with lock:
        lock.release()
        is_free.set()
        time.sleep(100000)
def takes():
    is_free.wait()
    lock.acquire()
    is_taken.set()
    time.sleep(100000)
def waits():
    is_taken.wait()
    lock.acquire()
for function in (lets_go, takes, waits):
    start(function.__name__, function)
    threads[function.__name__].start()
"""
    with script(python, START + code + ANSWERS) as victim:
        settle(victim)
        (edge,) = find_locks(victim.pid).edges

        assert (edge.waiter, edge.holder, edge.proven) == (victim.tids[2], victim.tids[0], False)
        assert "released" in edge.evidence
        assert_lives_on(victim)


def test_lock_taken_without_a_block_is_inferred_from_who_knows_it(python: Python) -> None:
    """Two threads that call `acquire`, each holding what the other wants: the only ones whose code refers to those locks."""
    code = """
class Side:
    def __init__(self):
        self.lock = threading.Lock()
    def take(self, other):
        self.lock.acquire()
        both.wait()
        with other:
            pass
both = threading.Barrier(2)
left, right = Side(), Side()
start("left", left.take, right.lock)
start("right", right.take, left.lock)
for thread in threads.values():
    thread.start()
"""
    with script(python, START + code + ANSWERS) as victim:
        settle(victim)
        graph = find_locks(victim.pid)

        assert edges(graph) == {("left", "right", "Lock"), ("right", "left", "Lock")}
        assert [edge.proven for edge in graph.edges] == [False, False]
        assert [(set(one.threads), one.proven) for one in graph.deadlocks] == [(set(victim.tids), False)]
        assert "acquire" in graph.edges[0].evidence
        assert_lives_on(victim)


def test_import_that_waits_for_an_import(python: Python) -> None:
    """A module takes a lock while it is imported, by a thread; the holder of the lock imports the module."""
    code = """
lock, holds = threading.Lock(), threading.Event()
with open("takes_lock.py", "w") as file:
    file.write("import __main__\\n__main__.imports.set()\\nwith __main__.lock: pass\\n")
imports = threading.Event()
def importer():
    holds.wait()
    import takes_lock
def owner():
    with lock:
        holds.set()
        imports.wait()
        import takes_lock
start("importer", importer)
start("owner", owner)
for thread in threads.values():
    thread.start()
"""
    with script(python, START + code + ANSWERS) as victim:
        settle(victim)
        graph = find_locks(victim.pid)

        assert edges(graph) == {("importer", "owner", "Lock"), ("owner", "importer", "import")}
        assert [edge.proven for edge in graph.edges] == [True, True]
        assert [set(deadlock.threads) for deadlock in graph.deadlocks] == [set(victim.tids)]
        assert "takes_lock" in {lock.detail for lock in graph.locks}
        assert graph.advice[0].command == f"threadsurgeon cancel {victim.tids[1]}"  # not the one in the import
        assert_lives_on(victim)


def test_gil_that_is_not_given_back(python: Python) -> None:
    """C code waits and keeps the GIL: who that is, and that everything else hangs on it."""
    code = """
import ctypes
go, done = threading.Event(), []
def keep():
    go.wait()
    ctypes.PyDLL(None).read(0, ctypes.create_string_buffer(1), 1)
    done.append(1)
def work():
    while not done:
        pass
start("keeps", keep)
start("works", work)
for thread in threads.values():
    thread.start()
ready(list(threads.values()))
go.set()
while not done:
    pass
for line in iter(hear, "finish"):
    say(ticks=0)
"""
    with script(python, START + code) as victim:
        victim.wait_until_in(victim.tids[0], 0)
        graph = find_locks(victim.pid)

        assert edges(graph) == {("works", "keeps", "GIL"), ("MainThread", "keeps", "GIL")}
        assert graph.deadlocks == ()
        assert graph.advice[0].command == f"threadsurgeon kill {victim.tids[0]}"
        assert "keep" in graph.advice[0].text
        assert not_traced(victim)
        victim.tell("")  # the byte it reads
        victim.finish()


def test_deadlock_of_the_gil_and_a_lock_of_c_code(python: Python) -> None:
    """One thread holds a mutex and wants the GIL, the other holds the GIL and wants the mutex: nothing moves any more."""
    code = """
import ctypes
mutex = ctypes.create_string_buffer(64)
locked = threading.Event()
go = threading.Event()
def has_mutex():
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
    locked.set()
    while True:
        pass
def has_gil():
    go.wait()
    ctypes.PyDLL(None).pthread_mutex_lock(mutex)
start("mutex", has_mutex)
start("gil", has_gil)
for thread in threads.values():
    thread.start()
locked.wait()
ready(list(threads.values()))
go.set()
hear()
"""
    with script(python, START + code) as victim:
        for _ in waiting("the GIL is kept"):
            graph = find_locks(victim.pid)
            if graph.deadlocks:
                break

        assert [(set(one.threads), one.proven) for one in graph.deadlocks] == [(set(victim.tids), False)]
        assert ("gil", "mutex", "mutex") in edges(graph)
        assert ("mutex", "gil", "GIL") in edges(graph)
        assert not_traced(victim)
        assert victim.process.poll() is None


def test_many_threads_behind_one_lock(python: Python) -> None:
    """Two hundred wait for one that sleeps: it is named, with what to look at."""
    code = """
lock = threading.Lock()
def hold():
    with lock:
        time.sleep(100000)
def wait():
    while not lock.locked():
        time.sleep(0.01)
    with lock:
        pass
start("holds", hold)
for number in range(200):
    start("waits %d" % number, wait)
for thread in threads.values():
    thread.start()
"""
    with script(python, START + code + ANSWERS) as victim:
        settle(victim, victim.tids[1:])
        graph = find_locks(victim.pid)
        (lock,) = graph.locks

        assert (lock.kind, lock.holder, set(lock.waiters)) == ("Lock", victim.tids[0], set(victim.tids[1:]))
        assert all(edge.proven for edge in graph.edges)
        assert graph.deadlocks == ()
        assert "200 threads" in graph.advice[0].text
        assert graph.advice[0].command == f"threadsurgeon stack {victim.tids[0]}"
        assert_lives_on(victim)
