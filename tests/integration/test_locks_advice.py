"""What `locks` says to do, how the command says it, and that it is never wrong about locks that change hands all the time."""

from __future__ import annotations

import json
import mmap
import re
import struct
import subprocess
import sys
from collections import Counter

import pytest

from tests.integration.lock_scripts import ANSWERS, DEADLOCKS, EVERYTHING, START, assert_lives_on, locks, not_traced, settle
from tests.zoo.pythons import Python
from tests.zoo.script import script
from threadsurgeon import find_locks
from threadsurgeon.locks.story import draw


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
