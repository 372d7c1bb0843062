"""Circles among waits, what is advised, and how it is told: from graphs that are written down here."""

from __future__ import annotations

import json
import random

import pytest

from tests.unit.examples import MAIN, replace
from threadsurgeon.linux.blocked import Blocked
from threadsurgeon.linux.process import SystemCall
from threadsurgeon.locks.advice import advise
from threadsurgeon.locks.deadlocks import find_deadlocks
from threadsurgeon.locks.story import draw, summarise, tell
from threadsurgeon.model.locks import Edge, Lock, WaitGraph
from threadsurgeon.model.threads import Frame, Thread
from threadsurgeon.schema import dump_locks


def edge(waiter: int, holder: int | None, lock: int = 0, kind: str = "Lock", **more: bool) -> Edge:
    return Edge(waiter, holder, lock or waiter * 16, kind, more.get("proven", True), more.get("timed", False), "seen")


def circles(*edges: Edge) -> list[set[int]]:
    return [set(deadlock.threads) for deadlock in find_deadlocks(edges)]


def graph(*edges: Edge, threads: dict[int, Thread] | None = None) -> WaitGraph:
    """A graph in which each edge is about a lock of its own."""
    tids = {tid for one in edges for tid in (one.waiter, one.holder) if tid is not None}
    known = tuple((threads or {}).get(tid) or named(tid) for tid in sorted(tids))
    locks = tuple(Lock(one.lock, one.kind, "", one.holder, (one.waiter,), "" if one.holder else "nobody") for one in edges)
    deadlocks = find_deadlocks(edges)
    return WaitGraph(8412, known, locks, tuple(edges), deadlocks, advise(known, locks, edges, deadlocks))


def named(tid: int, *frames: Frame, **more: object) -> Thread:
    places = frames or (Frame("acquire", "/usr/lib/python3/threading.py", 9), Frame("work", "/srv/app.py", tid))
    return replace(MAIN, tid=tid, name=f"worker-{tid}", main=False, frames=places, **more)


@pytest.mark.parametrize(
    ("edges", "found"),
    [
        ([], []),
        ([edge(1, 2)], []),
        ([edge(1, 2), edge(2, 1)], [{1, 2}]),
        ([edge(1, 1)], [{1}]),
        ([edge(1, 2), edge(2, 3), edge(3, 1)], [{1, 2, 3}]),
        ([edge(1, 2), edge(2, 1), edge(3, 1), edge(4, 3)], [{1, 2}]),  # the others are in the queue behind
        ([edge(1, 2), edge(2, 1), edge(5, 6), edge(6, 5)], [{1, 2}, {5, 6}]),
        ([edge(1, 2), edge(2, 1, timed=True)], []),  # ends by itself
        ([edge(1, 2), edge(2, None)], []),
        ([edge(1, 2), edge(1, 3), edge(2, 1)], []),  # one of a semaphore's holders goes on
        ([edge(1, 2), edge(1, 3), edge(2, 1), edge(3, 1)], [{1, 2, 3}]),
        ([edge(1, 2), edge(2, 1), edge(3, 1), edge(3, 4), edge(4, 3)], [{1, 2}, {3, 4}]),
    ],
)
def test_circles(edges: list[Edge], found: list[set[int]]) -> None:
    """Only those that never end, and only who is in them."""
    assert sorted(map(sorted, circles(*edges))) == sorted(map(sorted, found))


def test_circles_are_those_that_following_finds() -> None:
    """Where each thread waits for at most one: a thread is in a circle if following leads back to it."""
    chance = random.Random(1)
    for _ in range(300):
        waits = {tid: chance.randrange(1, 12) for tid in range(1, 12) if chance.random() < 0.8}
        expected = set()
        for first in waits:
            seen, tid = [], first
            while tid in waits and tid not in seen:
                seen.append(tid)
                tid = waits[tid]
            if tid == first:
                expected.add(first)
        found = circles(*(edge(waiter, holder) for waiter, holder in waits.items()))

        assert set().union(*found) == expected
        assert sum(map(len, found)) == len(expected)


def test_deadlock_is_proven_only_if_every_edge_is() -> None:
    """One inferred edge makes the circle inferred."""
    (sure,), (unsure,) = find_deadlocks([edge(1, 2), edge(2, 1)]), find_deadlocks([edge(1, 2), edge(2, 1, proven=False)])

    assert (sure.proven, unsure.proven) == (True, False)
    assert sure.locks == (16, 32)


def test_least_loss_is_advised() -> None:
    """A worker of a pool first, then the one that has worked less; never the main thread if there is another."""
    both = [edge(1, 2), edge(2, 1)]
    pool = graph(*both, threads={2: named(2, pool_worker=True)})
    lazy = graph(*both, threads={1: named(1, cpu_seconds=9.0)})
    main = graph(*both, threads={1: named(1)._replace(main=True)})
    importing = graph(*both, threads={1: named(1, Frame("_load_unlocked", "<frozen importlib._bootstrap>", 1))})
    alone = graph(edge(1, 1), threads={1: named(1)._replace(main=True)})

    assert {one.advice[0].command for one in (pool, lazy, main, importing)} == {"threadsurgeon cancel 2"}
    assert alone.advice[0].command == "threadsurgeon cancel 1 --main"
    assert "itself" in alone.advice[0].text


def test_who_is_in_the_queue_is_counted() -> None:
    """Threads behind a deadlock, directly and through others, are freed with it: no advice of their own."""
    advice = graph(edge(1, 2), edge(2, 1), edge(3, 1), edge(4, 3), edge(5, 4)).advice

    assert len(advice) == 1
    assert "3 more threads behind" in advice[0].text


def test_who_holds_up_others_is_shown() -> None:
    """The one at the end of a chain, and where it is; a GIL that is kept asks for more than an exception."""
    chain = graph(edge(1, 2), edge(2, 3), threads={3: named(3, Frame("fetch", "/srv/net.py", 7))}).advice
    frozen = graph(edge(1, 3, kind="GIL"), threads={3: named(3, Frame("crunch", "/srv/c.py", 8))}).advice

    assert [one.command for one in chain] == ["threadsurgeon stack 3"]
    assert "fetch (net.py:7)" in chain[0].text
    assert [one.command for one in frozen] == ["threadsurgeon kill 3"]
    assert "crunch (c.py:8)" in frozen[0].text


def test_lock_that_nobody_gives_back_is_named() -> None:
    """There is nobody to cancel but those that wait."""
    (advice,) = graph(edge(1, None)).advice

    assert "nobody" in advice.text
    assert advice.command == "threadsurgeon cancel 1"


def test_pool_is_starved_where_half_of_it_is_at_one_line() -> None:
    """Workers that wait for work are not stuck, wherever they are."""
    work, idle = Frame("fetch", "/srv/net.py", 7), Frame("_worker", "/lib/concurrent/futures/thread.py", 81)
    stuck = [named(tid, work, idle, pool_worker=True) for tid in range(1, 4)]
    resting = [named(tid, idle, pool_worker=True) for tid in range(4, 7)]
    many_resting = [named(tid, idle, pool_worker=True) for tid in range(10, 30)]

    assert "3 of 6 pool workers" in advise([*stuck, *resting], [], [], [])[0].text
    assert advise([*stuck, *many_resting], [], [], []) == ()
    assert advise(resting, [], [], []) == ()


def test_story_names_who_waits_where_for_whom() -> None:
    """The deadlock first, then what others wait for; each with its proof."""
    story = graph(edge(1, 2), edge(2, 1, proven=False), edge(3, 4), edge(5, None))
    told = dict(tell(story))

    assert summarise(story) == "deadlock of 2 threads"
    assert summarise(graph()) == "no deadlock; no thread waits for another one"
    assert summarise(graph(edge(1, 2))) == "no deadlock; 1 thread waits for 1 thing"
    assert list(told) == ["deadlock of 2 threads, inferred", "held by another thread", "not held by one thread"]
    assert told["deadlock of 2 threads, inferred"][:2] == [
        "thread 1 (worker-1) waits in work (app.py:1)",
        "    for Lock 0x10, held by thread 2 (worker-2) (proven: seen)",
    ]
    assert told["held by another thread"] == [
        "Lock 0x30, held by thread 4 (worker-4) in work (app.py:4) (proven); 1 thread waits: 3 (worker-3)"
    ]
    assert told["not held by one thread"] == ["Lock 0x50: nobody; 1 thread waits: 5 (worker-5)"]


def test_story_of_a_crowd_is_short() -> None:
    """Two hundred threads at one lock are counted, and not all named."""
    crowd = [edge(tid, 1, lock=16) for tid in range(2, 202)]
    lock = Lock(16, "Lock", "", 1, tuple(range(2, 202)))
    told = dict(tell(graph(*crowd)._replace(locks=(lock,))))["held by another thread"]

    assert len(told) == 1
    assert "200 threads wait: " in told[0]
    assert told[0].endswith("and 194 more")


def test_picture_has_an_arrow_for_each_wait() -> None:
    """Names come from the target: quotes in them end no label."""
    evil = {1: named(1)._replace(name='a"]; b -> c [label="\\')}
    lines = draw(graph(edge(1, 2), edge(2, 1, proven=False), edge(3, None), threads=evil)).splitlines()

    assert lines[0] == 'digraph "process 8412" {'
    assert lines[-1] == "}"
    assert '  1 -> 2 [label="Lock 0x10", color=red];' in lines
    assert '  2 -> 1 [label="Lock 0x20", style=dashed, color=red];' in lines
    assert '  3 -> "0x30" [label=""];' in lines
    assert [line for line in lines if line.startswith("  1 [")] == [
        r'  1 [label="1 (a\"]; b -> c [label=\"\\)\nwork (app.py:1)", color=red];'
    ]


def test_json_has_stable_names() -> None:
    """What programs rely on."""
    said = json.loads(dump_locks(graph(edge(1, 2), edge(2, 1))))

    assert said["schema"] == 1
    assert said["locks"][0] == {"address": 16, "kind": "Lock", "detail": "", "holder": 2, "waiters": [1], "note": ""}
    assert list(said["edges"][0]) == ["waiter", "holder", "lock", "kind", "proven", "timed", "evidence"]
    assert said["deadlocks"] == [{"threads": [1, 2], "locks": [16, 32], "proven": True}]
    assert said["advice"] == [{"text": said["advice"][0]["text"], "command": "threadsurgeon cancel 1"}]


@pytest.mark.parametrize(
    ("number", "operation", "futex"), [(202, 0x189, 4096), (202, 0x80, 4096), (202, 0x81, 0), (230, 0, 0), (202, 1, 0)]
)
def test_futex_that_a_thread_sleeps_on(number: int, operation: int, futex: int) -> None:
    """FUTEX_WAIT and its kin with their flags; a thread that wakes others waits for nobody."""
    blocked = Blocked(SystemCall(number, (4096, operation, 0, 0, 0, 0), 0, 0), 1.0)

    assert blocked.futex == futex


def test_thread_has_slept_if_it_used_no_cpu() -> None:
    """Not where the kernel does not say what it used."""
    call = SystemCall(202, (4096, 0, 0, 0, 0, 0), 0, 0)

    assert Blocked(call, 1.0).has_slept_since(Blocked(call, 1.0))
    assert not Blocked(call, 1.5).has_slept_since(Blocked(call, 1.0))
    assert not Blocked(call, None).has_slept_since(Blocked(call, None))
    assert not Blocked(call, 1.0).has_slept_since(None)
