"""Processes that know who waits for whom, because they built it: what `locks` says of them is true, on every CPython."""

from __future__ import annotations

import json
import mmap
import re
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.zoo.pythons import Python
from tests.zoo.script import Script, script
from tests.zoo.victim import BETWEEN_LOOKS, LOOKS, waiting
from threadsurgeon import find_locks, find_thread, list_threads
from threadsurgeon.locks.story import draw
from threadsurgeon.model.locks import WaitGraph

FUTEX = 202

# What every script ends with: it answers with a count that goes on, until it is told to finish.
ANSWERS = """
ready(list(threads.values()))
ticks = [0]
def tick():
    while True:
        ticks[0] += 1
        time.sleep(0.01)
threading.Thread(target=tick, daemon=True, name="ticker").start()
for line in iter(hear, "finish"):
    say(ticks=ticks[0])
"""

START = """
threads = {}
def start(name, function, *arguments):
    threads[name] = threading.Thread(target=function, args=arguments, name=name, daemon=True)
"""

EVERYTHING = (
    START
    + """
import contextlib, queue
from concurrent.futures import Future
first, second = threading.Lock(), threading.Lock()
both = threading.Barrier(2)
def forward():
    with first:
        both.wait()
        with second:
            pass
def backward():
    with second:
        both.wait()
        first.acquire()
start("forward", forward)
start("backward", backward)
def behind():
    while not (first.locked() and second.locked()):
        time.sleep(0.001)
    with first:
        pass
start("behind", behind)

ring = [threading.RLock() for _ in range(3)]
three = threading.Barrier(3)
def round_the_ring(number):
    with ring[number]:
        three.wait()
        with ring[(number + 1) % 3]:
            pass
for number in range(3):
    start("ring %d" % number, round_the_ring, number)

class Account:
    def __init__(self):
        self.lock = threading.Lock()
    @contextlib.contextmanager
    def open(self):
        with self.lock:
            yield
account = Account()
def use():
    with account.open():
        time.sleep(100000)
def ask():
    while not account.lock.locked():
        time.sleep(0.001)
    with account.open():
        pass
start("use", use)
start("ask", ask)

def itself():
    own = threading.Lock()
    with own:
        with own:
            pass
start("itself", itself)

def join(other):
    both_started.wait()
    threads[other].join()
both_started = threading.Barrier(2)
start("left", join, "right")
start("right", join, "left")

def orphan(lock):
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join()
    return lock
lost, lost_rlock = orphan(threading.Lock()), orphan(threading.RLock())
def wait_for(lock):
    with lock:
        pass
start("lost", wait_for, lost)
start("lost too", lost.acquire)

held, is_held = threading.RLock(), threading.Event()
def recursive():
    with held:
        with held:
            is_held.set()
            time.sleep(100000)
def wait_with_timeout():
    is_held.wait()
    held.acquire(timeout=100000)
start("recursive", recursive)
start("timed", wait_with_timeout)

condition, is_kept = threading.Condition(), threading.Event()
def wait_on(condition):
    with condition:
        condition.wait()
start("condition", wait_on, condition)
def keep(condition):
    while not condition._waiters:
        time.sleep(0.001)
    with condition:
        is_kept.set()
        time.sleep(100000)
def want(condition):
    is_kept.wait()
    with condition:
        pass
start("keep", keep, condition)
start("want", want, condition)

full, empty = queue.Queue(2), queue.Queue()
full.put(1), full.put(2)
start("put", full.put, 3)
start("get", empty.get)
start("all done", full.join)
start("simple", queue.SimpleQueue().get)
start("semaphore", threading.Semaphore(0).acquire)
start("event", threading.Event().wait)
start("barrier", threading.Barrier(2).wait)
start("future", Future().result)
one_at_a_time = threading.BoundedSemaphore(1)
def serve():
    with one_at_a_time:
        time.sleep(100000)
def be_served():
    while one_at_a_time._value:
        time.sleep(0.001)
    with one_at_a_time:
        pass
start("serve", serve)
start("be served", be_served)

for thread in threads.values():
    thread.start()
"""
    + ANSWERS
)

# (waiter, holder, kind)
EDGES = {
    ("forward", "backward", "Lock"),
    ("backward", "forward", "Lock"),
    ("behind", "forward", "Lock"),
    ("ring 0", "ring 1", "RLock"),
    ("ring 1", "ring 2", "RLock"),
    ("ring 2", "ring 0", "RLock"),
    ("ask", "use", "Lock"),
    ("itself", "itself", "Lock"),
    ("left", "right", "Thread"),
    ("right", "left", "Thread"),
    ("lost", None, "Lock"),
    ("lost too", None, "Lock"),
    ("timed", "recursive", "RLock"),
    ("condition", None, "Condition"),
    ("want", "keep", "RLock"),
    ("put", None, "Queue"),
    ("get", None, "Queue"),
    ("all done", None, "Queue"),
    ("simple", None, "SimpleQueue"),
    ("semaphore", None, "Semaphore"),
    ("event", None, "Event"),
    ("barrier", None, "Barrier"),
    ("future", None, "Future"),
    ("be served", "serve", "Semaphore"),
}
DEADLOCKS = [{"backward", "forward"}, {"ring 0", "ring 1", "ring 2"}, {"itself"}, {"left", "right"}]


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


def test_pool_whose_workers_are_all_at_the_same_line(any_python: Python) -> None:
    """A pool that takes no more work: how many of its workers are stuck, and where."""
    code = """
from concurrent.futures import ThreadPoolExecutor
lock = threading.Lock()
def fetch():
    lock.acquire()
lock.acquire()
pool = ThreadPoolExecutor(4)
for _ in range(9):
    pool.submit(fetch)
threads = {thread.name: thread for thread in pool._threads}
"""
    with script(any_python, code + ANSWERS) as victim:
        settle(victim)
        (advice,) = [one for one in find_locks(victim.pid).advice if "pool" in one.text]

        assert "4 of 4 pool workers" in advice.text
        assert "fetch (script.py:" in advice.text
        assert advice.command.startswith("threadsurgeon cancel ")
        assert not_traced(victim)


BUSY = (
    START
    + """
import mmap, random, struct
USERS, LOCKS = 12, 4
locks = [threading.Lock() for _ in range(LOCKS)]
with open("truth", "wb+") as file:
    file.truncate(4096)
    truth = mmap.mmap(file.fileno(), 4096)
numbers = [0] * LOCKS
def use(mine):
    tid = threading.get_native_id()
    while True:
        which = random.choice(mine)
        with locks[which]:
            numbers[which] += 1
            struct.pack_into("<Q", truth, 8 * which, numbers[which] << 32 | tid)
            if random.random() < 0.3:
                time.sleep(random.random() / 10)
            else:
                sum(range(random.randrange(3000)))
            struct.pack_into("<Q", truth, 8 * which, 0)
for number in range(USERS):
    start("user %d" % number, use, range(number % 2 * 2, number % 2 * 2 + 2))
for thread in threads.values():
    thread.start()
"""
    + ANSWERS
)


def test_nothing_proven_is_ever_wrong(python: Python) -> None:
    """A hundred looks at threads that take and give back locks all the time, and write down who has which.

    Where what is written did not change during a look, it is what the look must have seen.
    """
    with script(python, BUSY) as victim, open(f"/proc/{victim.pid}/cwd/truth", "rb") as file:
        truth = mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ)
        users = {tid: number % 2 for number, tid in enumerate(victim.tids)}
        claims: Counter[str] = Counter()
        wrong: list[object] = []
        for _ in range(100):
            before = struct.unpack_from("<4Q", truth)
            graph = find_locks(victim.pid)
            lasting = {word & 0xFFFFFFFF for word in set(before) & set(struct.unpack_from("<4Q", truth)) - {0}}
            proven = [edge for edge in graph.edges if edge.proven and edge.holder is not None]
            claims.update(proven=len(proven), lasting=sum(edge.holder in lasting for edge in proven))
            for edge in proven:
                shares = edge.holder in users and users[edge.holder] == users[edge.waiter]
                if edge.kind != "Lock" or not shares or edge.holder == edge.waiter or edge.waiter in lasting:
                    wrong.append(edge)
            for lock in graph.locks:
                holders = {edge.holder for edge in proven if edge.lock == lock.address}
                # Who has the lock all the while is waited for by all that wait for it.
                if len(holders) > 1 or (lock.holder in lasting and holders - {lock.holder}):
                    wrong.append((lock, holders))
            wrong += graph.deadlocks

        assert wrong == []
        assert claims["proven"] > 20
        assert claims["lasting"] > 5
        assert_lives_on(victim)


@pytest.mark.parametrize("switch", ["", "--json", "--dot"])
def test_command_says_it_with_its_exit_status(any_python: Python, switch: str) -> None:
    """In words, as JSON and as a picture; a person can type what it says next."""
    with script(any_python, EVERYTHING) as victim:
        settle(victim)
        ran = locks(victim, *filter(None, [switch]))

        assert (ran.returncode, ran.stderr) == (1, "")
        if switch == "--json":
            said = json.loads(ran.stdout)
            assert list(said) == ["schema", "pid", "locks", "edges", "deadlocks", "advice", "warnings"]
            assert (said["schema"], said["pid"], len(said["deadlocks"])) == (1, victim.pid, len(DEADLOCKS))
        elif switch == "--dot":
            assert ran.stdout.startswith("digraph")
            assert ran.stdout.strip() == draw(find_locks(victim.pid))
        else:
            assert "4 deadlocks" in ran.stdout.splitlines()[0]
            command = re.search(r"^ +threadsurgeon (cancel \d+)$", ran.stdout, re.M)
            assert command
            assert int(command[1].split()[1]) in victim.tids
        assert_lives_on(victim)


def test_advice_dissolves_the_deadlock(any_python: Python, gdb: str) -> None:
    """What it says to type is typed: the deadlock is gone, and all locks are free."""
    code = """
first, second, both = threading.Lock(), threading.Lock(), threading.Barrier(2)
def take(one, other):
    with one:
        both.wait()
        with other:
            pass
start("forward", take, first, second)
start("backward", take, second, first)
for thread in threads.values():
    thread.start()
"""
    with script(any_python, START + code + ANSWERS) as victim:
        settle(victim)
        advice = find_locks(victim.pid).advice[0].command.split()
        ran = subprocess.run([sys.executable, "-m", *advice], capture_output=True, text=True, timeout=60, check=False)

        assert ran.returncode == 0, ran.stdout + ran.stderr
        for tid in victim.tids:
            victim.wait_until_gone(tid)
        after = locks(victim)
        assert (after.returncode, "no deadlock" in after.stdout) == (0, True)
        assert_lives_on(victim)


def locks(victim: Script, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "threadsurgeon", "locks", str(victim.pid), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def edges(graph: WaitGraph) -> set[tuple[str | None, str | None, str]]:
    """Name who waits for whom."""
    names = {thread.tid: thread.name for thread in graph.threads}
    return {(names[edge.waiter], names.get(edge.holder or 0), edge.kind) for edge in graph.edges}


def settle(victim: Script, tids: list[int] | None = None) -> None:
    """Return once the main thread listens, and the kernel shows each thread waiting, in the same call at several looks."""
    victim.ask("tick")
    seen: list[list[str]] = []
    for _ in waiting("every thread waits", 60, BETWEEN_LOOKS):
        tasks = [Path(f"/proc/{victim.pid}/task/{tid}") for tid in tids or victim.tids]
        seen.append([(task / name).read_text() for task in tasks for name in ("syscall", "schedstat")])
        if len(seen) >= LOOKS and all(calls == seen[-1] for calls in seen[-LOOKS:]) and "running\n" not in seen[-1]:
            return


def not_traced(victim: Script) -> bool:
    statuses = [path.read_text() for path in Path(f"/proc/{victim.pid}/task").glob("*/status")]
    return all("TracerPid:\t0\n" in status and not re.search(r"^State:\s+[tT]", status, re.M) for status in statuses)


def assert_lives_on(victim: Script) -> None:
    """The process goes on counting, nobody traces it, and it ends in order."""
    before = victim.ask("tick")["ticks"]
    for _ in waiting("it ticks"):
        if victim.ask("tick")["ticks"] > before:
            break
    assert not_traced(victim)
    victim.finish()
