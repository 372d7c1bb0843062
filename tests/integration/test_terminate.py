"""Ending a thread where it waits: it vanishes, whoever joins it returns, the process lives on and ends in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.zoo.behaviours import Behaviour
from tests.zoo.patient import patient
from tests.zoo.pythons import Python
from tests.zoo.script import script
from tests.zoo.victim import Victim
from threadsurgeon import kill
from threadsurgeon.debugger.session import Session
from threadsurgeon.errors import Refused
from threadsurgeon.inventory import Target
from threadsurgeon.linux.process import SystemCall
from threadsurgeon.model.operations import Outcome
from threadsurgeon.surgery.addresses import make_victim
from threadsurgeon.surgery.plan import examine
from threadsurgeon.surgery.technique import Applied, Effect
from threadsurgeon.surgery.terminate import terminate, terminate_native

Start = Callable[..., Victim]

SECONDS = 5.0
SLEEPS = (23, 35, 230, 270)

pytestmark = pytest.mark.usefixtures("gdb")

MANY = """
def wait():
    time.sleep(1000)

threads = [threading.Thread(target=wait) for _ in range(50)]
for thread in threads:
    thread.start()
ready(threads)
while True:
    line = hear()
    if line == "finish":
        break
    number = int(line)
    before = threads[number].is_alive()
    threads[number].join()
    more = threading.Thread(target=int)
    more.start()
    more.join()
    say(alive=threads[number].is_alive())
"""

# One thread is joined already when it is terminated, another is never joined: at the end the interpreter waits for it.
JOINED = """
def wait():
    time.sleep(1000)

threads = [threading.Thread(target=wait) for _ in range(2)]
for thread in threads:
    thread.start()
joiner = threading.Thread(target=threads[0].join)
joiner.start()
ready(threads)
hear()
joiner.join()
say(joined=True)
hear()
"""

NATIVE = """
import ctypes
libc = ctypes.CDLL(None)
handles, tids = [], []
for _ in range(50):
    before = set(os.listdir("/proc/self/task"))
    handle = ctypes.c_ulong()
    assert libc.pthread_create(ctypes.byref(handle), None, ctypes.cast(libc.pause, ctypes.c_void_p), None) == 0
    while set(os.listdir("/proc/self/task")) <= before:
        time.sleep(0.001)
    tids += [int(tid) for tid in set(os.listdir("/proc/self/task")) - before]
    handles.append(handle)
say(tids=tids)
hear()
say(joined=[libc.pthread_join(handle, None) for handle in handles])
hear()
"""


@pytest.fixture
def session() -> Iterator[Session]:
    with Session.start() as running:
        running.wait_until_ready()
        yield running


def terminate_python(session: Session, pid: int, tid: int, seconds: float = SECONDS) -> Applied:
    target = Target(pid)
    examination = examine(target, target.see(tid), None)
    return terminate(session, examination, make_victim(examination), seconds)


@pytest.mark.behaviours("sleep", "ctypes_sleep", "pydll_sleep", "select_", "recv", "poll")
def test_python_thread_vanishes(python: Python, behaviour: Behaviour, stuck: Start, session: Session) -> None:
    """With the GIL or without it, debug build or not: nothing of its code runs any more, and the others go on.

    Where musl is the C library, it is refused.
    """
    victim = stuck(python, behaviour)
    if python.musl:
        with pytest.raises(Refused, match="musl would go on listing the thread"):
            terminate_python(session, victim.pid, victim.tid)
        assert not victim.thread_is_gone()
        victim.assert_lives_on(unwound=False)
        return
    applied = terminate_python(session, victim.pid, victim.tid)
    status = victim.assert_lives_on(unwound=False)

    assert applied.effect is Effect.EXITING
    assert victim.thread_is_gone()
    assert not status["finally_ran"]
    assert not status["lock_free"]
    if behaviour.name != "recv":  # its aftercare asks the thread
        victim.finish()


def test_fifty_in_a_row(python: Python, session: Session) -> None:
    """Each can be joined, new threads can be started, and the process ends with status 0."""
    with script(python, MANY) as process:
        for number, tid in enumerate(process.tids):
            process.wait_until_in(tid, *SLEEPS)
            terminate_python(session, process.pid, tid)
            assert process.ask(str(number)) == {"alive": False}
            process.wait_until_gone(tid)
        process.finish()


def test_last_rung_after_the_others_have_stopped_it(python: Python) -> None:
    """A wait that was stopped by a tracer before is another system call to the kernel, and still the same wait."""
    with patient(python) as subject:
        tid = subject.get_stuck("deaf")
        report = kill(tid, force=True, grace=0.3)

        assert report.outcome is Outcome.ENDED, report
        assert report.technique == "terminate"
        assert len(report.attempts) > 1
        assert subject.join() == {"passed": False, "tidied": False, "joined": True, "free": False, "ticked": True}
        subject.process.finish()


def test_joined_before_and_never(python: Python, session: Session) -> None:
    """Who waits in join() already returns, and so does the interpreter that waits for all threads at its end."""
    with script(python, JOINED) as process:
        for tid in process.tids:
            process.wait_until_in(tid, *SLEEPS)
            terminate_python(session, process.pid, tid)
            process.wait_until_gone(tid)

        assert process.ask("joined?") == {"joined": True}
        process.finish()


def test_native_thread_vanishes(python: Python, session: Session) -> None:
    """Fifty in a row; pthread_join(3) returns for each."""
    with script(python, NATIVE) as process:
        target = Target(process.pid)
        for tid in process.tids:
            process.wait_until_in(tid, 34)
            assert terminate_native(session, target, tid, SECONDS).effect is Effect.EXITING
            process.wait_until_gone(tid)

        assert process.ask("joined?") == {"joined": [0] * 50}
        process.finish()


@pytest.mark.parametrize("behaviour", ["lock", "busy_loop", "pipe_read"])
def test_no_safe_place_is_refused(behaviour: str, any_python: Python, stuck: Start, session: Session) -> None:
    """Waiting for a lock, running, or in a read that may hold a stream's lock: nothing is done."""
    victim = stuck(any_python, behaviour)
    with pytest.raises(Refused, match="cannot be dropped where it is"):
        terminate_python(session, victim.pid, victim.tid, 0.05)

    victim.assert_lives_on(unwound=False)
    assert not victim.thread_is_gone()


@pytest.mark.behaviours("native_spin")
def test_native_thread_that_spins_is_refused(python: Python, behaviour: Behaviour, stuck: Start, session: Session) -> None:
    """It is never at a place where it holds nothing."""
    victim = stuck(python, behaviour)
    with pytest.raises(Refused, match="cannot be dropped where it is: it runs") as caught:
        terminate_native(session, Target(victim.pid), victim.tid, 0.05)

    assert caught.value.hint is not None
    victim.assert_lives_on(unwound=False)
    assert not victim.thread_is_gone()
    victim.finish()


def test_rules_can_be_replaced(any_python: Python, stuck: Start, session: Session) -> None:
    """Whoever knows more of a place than the number of its system call decides."""
    victim = stuck(any_python, "sleep")
    asked: list[SystemCall] = []

    def refuse(pid: int, tid: int, call: SystemCall) -> str | None:
        assert (pid, tid) == (victim.pid, victim.tid)
        asked.append(call)
        return "of a rule"

    target = Target(victim.pid)
    examination = examine(target, target.see(victim.tid), None)
    with pytest.raises(Refused, match="of a rule"):
        terminate(session, examination, make_victim(examination), 0.05, find_obstacle=refuse)
    assert asked
    victim.assert_lives_on(unwound=False)


def test_python_thread_is_not_native(any_python: Python, stuck: Start, session: Session) -> None:
    """A thread with a Python thread state is not ended as one without."""
    victim = stuck(any_python, "sleep")
    with pytest.raises(Refused, match="Python thread state"):
        terminate_native(session, Target(victim.pid), victim.tid, SECONDS)
    victim.assert_lives_on(unwound=False)
