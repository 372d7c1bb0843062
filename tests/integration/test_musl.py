"""What is particular to musl as the C library; every test with victims runs there, too."""

from __future__ import annotations

import itertools

import pytest

import threadsurgeon
from tests.integration import test_locks
from tests.integration.builds import nth_build
from tests.zoo.pythons import Python
from tests.zoo.script import script
from tests.zoo.victim import waiting

pytestmark = pytest.mark.usefixtures("gdb")

# One after the other; who counts keeps the GIL to itself.
IN_TURN = """
import itertools
go, ended, held = [threading.Event() for _ in range(20)], [], threading.Lock()

def loop():
    while True:
        pass

def sleep():
    time.sleep(100000)

def wait():
    held.acquire()

def count():
    sum(itertools.count())

def work(number, function):
    go[number].wait()
    try:
        function()
    finally:
        ended.append(number)

held.acquire()
functions = [loop, sleep, wait, count] * (len(go) // 4)
threads = [threading.Thread(target=work, args=pair) for pair in enumerate(functions)]
for thread in threads:
    thread.start()
ready(threads)
for number, thread in enumerate(threads):
    hear()
    go[number].set()
    thread.join()
    say(ended=ended)
hear()
"""


@pytest.fixture
def with_musl(request: pytest.FixtureRequest) -> Python:
    """One whose C library is musl."""
    return nth_build(request, 0, lambda python: python.musl)


def test_locks_with_musl(with_musl: Python) -> None:
    """Who waits for whom is read from Python's objects, and from arguments of calls that every C library makes."""
    test_locks.test_every_kind_of_wait_is_found(with_musl)


def test_threads_with_musl_end_in_a_row(with_musl: Python) -> None:
    """By raise, interrupt and cut in turn, in one process, which ends in order."""
    techniques = itertools.cycle([("loop", "raise"), ("sleep", "interrupt"), ("wait", "interrupt"), ("count", "cut")])
    with script(with_musl, IN_TURN) as target:
        for number, (tid, (function, technique)) in enumerate(zip(target.tids, techniques, strict=False)):
            target.tell("next")
            for _ in waiting(f"{function} is what it is in"):
                (thread,) = [thread for thread in threadsurgeon.list_threads(target.pid).threads if thread.tid == tid]
                if [frame.function for frame in thread.frames[:1]] == [function]:
                    break
            report = threadsurgeon.kill(tid, pid=target.pid, grace=2.0)

            assert (report.outcome.is_success, report.technique) == (True, technique), report
            assert target.answer() == {"ended": [*range(number + 1)]}
        target.finish()
