"""Processes whose threads wait for each other, and know which for which, because they built it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.zoo.script import Script
from tests.zoo.victim import BETWEEN_LOOKS, LOOKS, waiting
from threadsurgeon.model.locks import WaitGraph

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
