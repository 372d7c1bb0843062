"""Code that catches every exception ends all the same: raised again where it was caught, or with its handlers left out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.zoo.behaviours import Behaviour
from tests.zoo.pythons import Python
from tests.zoo.script import script
from tests.zoo.victim import Victim, waiting
from threadsurgeon.debugger.session import Session
from threadsurgeon.inventory import Target
from threadsurgeon.surgery.addresses import make_victim
from threadsurgeon.surgery.insist import insist
from threadsurgeon.surgery.plan import examine
from threadsurgeon.surgery.technique import Applied, Effect

Start = Callable[..., Victim]

SECONDS = 10.0
SLEEPS = (23, 35, 230, 270)

pytestmark = pytest.mark.usefixtures("gdb")

MANY = """
tidied = []

def swallow():
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            pass

def tidy(number):
    try:
        swallow()
    finally:
        tidied.append(number)

threads = [threading.Thread(target=tidy, args=(number,)) for number in range(50)]
for thread in threads:
    thread.start()
ready(threads)
while True:
    line = hear()
    if line == "finish":
        break
    threads[int(line)].join()
    say(alive=threads[int(line)].is_alive(), tidied=len(tidied))
"""

# In turn: a handler that calls itself; no system call at all; a run() of one's own around threading's; a thread that
# threading does not know; four hundred calls deep, each with a handler; a generator and a callback from C.
KINDS = """
import _thread

def in_handler():
    try:
        time.sleep(1000)
    except BaseException:
        in_handler()

def busy():
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass

def again():
    time.sleep(1000)

class Restarting(threading.Thread):
    def run(self):
        self.kept = self._target, self._args, self._kwargs
        while True:
            try:
                self._target, self._args, self._kwargs = self.kept
                super().run()
            except BaseException:
                pass

def deep(depth=400):
    while True:
        try:
            if depth == 0:
                time.sleep(1000)
            deep(depth - 1)
        except BaseException:
            pass

def generate():
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            yield 1

def callback(_):
    for _ in generate():
        pass
    return 1

def from_c():
    while True:
        try:
            sorted([2, 1], key=callback)
        except BaseException:
            pass

raw = []
def in_raw():
    raw.append(_thread.get_native_id())
    busy_sleep()

def busy_sleep():
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            pass

threads = [threading.Thread(target=target) for target in (in_handler, busy, deep, from_c)] + [Restarting(target=again)]
for thread in threads:
    thread.start()
_thread.start_new_thread(in_raw, ())
while not raw:
    time.sleep(0.001)
say(tids=[thread.native_id for thread in threads] + raw)
hear()
for thread in threads:
    thread.join()
"""

POOL = """
from concurrent.futures import ThreadPoolExecutor

def swallow():
    try:
        raise KeyError
    except KeyError:
        while True:
            try:
                time.sleep(1000)
            except BaseException:
                pass

def look():
    return str(sys.exc_info()[0]), threading.get_native_id()

executor = ThreadPoolExecutor(1)
_, tid = executor.submit(look).result()
future = executor.submit(swallow)
say(tids=[tid])
hear()
raised = type(future.exception()).__name__
say(raised=raised, then=executor.submit(look).result())
hear()
executor.shutdown()
"""


@pytest.fixture
def session() -> Iterator[Session]:
    with Session.start() as running:
        running.wait_until_ready()
        yield running


def press(session: Session, pid: int, tid: int, *, gentle: int = 3, seconds: float = SECONDS) -> Applied:
    target = Target(pid)
    examination = examine(target, target.see(tid), None)
    return insist(session, examination, make_victim(examination), seconds, gentle=gentle)


SWALLOWERS = (
    "stubborn",
    "swallower",
    "swallow_continue",
    "swallow_deep",
    "swallow_exit",
    "swallow_finally",
    "swallow_nested",
    "swallow_suppress",
    "swallow_with",
)


@pytest.mark.parametrize("gentle", [3, 0])
@pytest.mark.behaviours(*SWALLOWERS)
def test_swallower_ends(python: Python, behaviour: Behaviour, gentle: int, stuck: Start, session: Session) -> None:
    """Its caller's ``finally`` and ``with`` run, and only frames that caught it have theirs left out."""
    victim = stuck(python, behaviour)
    applied = press(session, victim.pid, victim.tid, gentle=gentle)
    for _ in waiting(f"{victim}: the thread is gone"):
        if victim.thread_is_gone():
            break
    victim.assert_lives_on()

    assert applied.effect is Effect.DELIVERED
    assert applied.skipped or gentle  # 3.12 does not look for an exception everywhere where others do
    assert all(frame.file.endswith(f"{behaviour.name}.py") or frame.file == "<string>" for frame in applied.skipped)
    victim.finish()


def test_fifty_in_a_row(python: Python, session: Session) -> None:
    """Each can be joined, each one's outer ``finally`` ran, the process ends with status 0."""
    with script(python, MANY) as process:
        for number, tid in enumerate(process.tids):
            process.wait_until_in(tid, *SLEEPS)
            applied = press(session, process.pid, tid)
            process.wait_until_gone(tid)
            assert applied.effect is Effect.DELIVERED
            assert process.ask(str(number)) == {"alive": False, "tidied": number + 1}
        process.finish()


@pytest.fixture
def busy_machine() -> Iterator[None]:
    """More that wants to compute than there are processors."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 + (os.cpu_count() or 1))]
    yield
    for burner in burners:
        burner.kill()
        burner.wait()


@pytest.mark.usefixtures("busy_machine")
def test_busy_machine_does_not_look_like_caught(any_python: Python, session: Session) -> None:
    """A thread that waits for a processor has caught nothing yet: only the swallower's handlers are left out."""
    with script(any_python, MANY) as process:
        for number, tid in enumerate(process.tids[:20]):
            process.wait_until_in(tid, *SLEEPS)
            applied = press(session, process.pid, tid, gentle=0, seconds=3 * SECONDS)
            process.wait_until_gone(tid)

            assert applied.effect is Effect.DELIVERED
            assert {frame.function for frame in applied.skipped} == {"swallow"}
            assert process.ask(str(number)) == {"alive": False, "tidied": number + 1}


def test_all_kinds(python: Python, session: Session) -> None:
    """Whatever it looks like, it unwinds."""
    with script(python, KINDS) as process:
        for tid in process.tids:
            applied = press(session, process.pid, tid)
            assert applied.effect is Effect.DELIVERED, (tid, process.tids, applied)
            process.wait_until_gone(tid)
        process.finish()


@pytest.mark.parametrize("gentle", [3, 0])
def test_pool_worker_lives_on(python: Python, gentle: int, session: Session) -> None:
    """The future gets the exception; the worker takes other work, and handles no exception any more."""
    with script(python, POOL) as process:
        (tid,) = process.tids
        process.wait_until_in(tid, *SLEEPS)
        applied = press(session, process.pid, tid, gentle=gentle)

        assert applied.effect is Effect.DELIVERED
        assert process.ask("raised?") == {"raised": "TimeoutError", "then": ["None", tid]}
        process.finish()


def test_time_is_bounded(any_python: Python, stuck: Start, session: Session) -> None:
    """Code that nothing reaches is left as it was, with nothing pending."""
    victim = stuck(any_python, "c_sum")
    applied = press(session, victim.pid, victim.tid, seconds=0.3)

    assert applied.effect is Effect.NO_CHECK
    assert applied.skipped == ()
    assert victim.is_traced_or_stopped() == []
    target = Target(victim.pid)
    state = target.see(victim.tid).state
    offset = target.runtime.layout.thread_state.async_exc
    assert state.content[offset : offset + 8] == bytes(8)
