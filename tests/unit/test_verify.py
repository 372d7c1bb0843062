"""The verdict on a thread, from what is seen of it afterwards."""

import os
import time
from itertools import cycle
from types import SimpleNamespace

import pytest

from tests.unit.examples import replace
from tests.unit.fake_target import INTERPRETER, THREAD, FakeTarget, sighting, status
from threadsurgeon.cpython.threads import Gil, list_interpreters
from threadsurgeon.errors import NativeThread, NoSuchProcess, NoSuchThread
from threadsurgeon.inventory import Target
from threadsurgeon.linux.memory import BadAddress
from threadsurgeon.linux.process import Task
from threadsurgeon.model.operations import Outcome
from threadsurgeon.model.threads import Frame
from threadsurgeon.surgery import verify
from threadsurgeon.surgery.plan import Doing
from threadsurgeon.surgery.verify import Watch, check_life

STUCK = ("sleep", "victim", "run@9000", "_bootstrap")
WORKER = ("sleep", "task", "run", "_worker", "_bootstrap")
WAITING = ("wait@8000", "get@8100", "_worker", "_bootstrap")
# Where sighting() puts the frame of WORKER's run().
RUN = 0x3000


@pytest.fixture
def kernel(monkeypatch):
    """What the kernel says; time passes by a millisecond with every look at the clock."""
    facts = {"alive": True, "doing": Doing.RUNNING, "start": THREAD.start_time, "now": 0.0}
    facts |= {"cpu": 0.0, "cpu per look": 0.0}

    def read_task(pid, tid):
        if facts["start"] is None:
            raise NoSuchThread("gone")
        return Task(tid, "python3", "S", facts["start"], 0.0)

    def find_doing(target, now):
        if isinstance(facts["doing"], Exception):
            raise facts["doing"]
        return next(facts["doing"]) if isinstance(facts["doing"], cycle) else facts["doing"]

    def read_cpu_time(pid, tid):
        facts["cpu"] += facts["cpu per look"]
        return facts["cpu"]

    def monotonic():
        facts["now"] += 0.001
        return facts["now"]

    def sleep(seconds):
        facts["now"] += seconds

    monkeypatch.setattr(verify, "is_alive", lambda pid: facts["alive"])
    monkeypatch.setattr(verify, "read_task", read_task)
    monkeypatch.setattr(verify, "find_doing", find_doing)
    monkeypatch.setattr(verify, "read_cpu_time", read_cpu_time)
    monkeypatch.setattr(verify, "time", SimpleNamespace(monotonic=monotonic, sleep=sleep))
    return facts


def effect(target, before, *, deadline=5.0, **options):
    return Watch(target, before, **options).wait_for_effect(deadline)


@pytest.mark.parametrize("error", [NoSuchThread("gone"), NativeThread("no state"), BadAddress(1, 8)])
def test_thread_that_is_gone_has_ended(kernel, error):
    """Gone for the kernel, too."""
    kernel["start"] = None
    verdict = effect(FakeTarget(sighting(*STUCK), error), sighting(*STUCK))

    assert (verdict.outcome, verdict.sighting, verdict.delivered) == (Outcome.ENDED, None, True)


def test_tid_that_was_reused_is_another_thread(kernel):
    """It has another start time: whether seen by us or by the kernel."""
    before = sighting(*STUCK)
    other = replace(before, thread=replace(before.thread, start_time=before.thread.start_time + 1))

    assert effect(FakeTarget(other), before).outcome is Outcome.ENDED
    kernel["start"] = THREAD.start_time + 1
    assert effect(FakeTarget(NoSuchThread("gone")), before).outcome is Outcome.ENDED


def test_thread_without_python_state_has_not_ended_yet(kernel):
    """The OS thread is about to end: as long as it is there, it is there."""
    before = sighting(*STUCK)
    watch = Watch(FakeTarget(NativeThread("no state")), before)

    assert watch.sight() == before
    kernel["start"] = None
    assert watch.sight() is None


@pytest.mark.parametrize("method", ["wait_for_effect", "wait_for_delivery"])
def test_process_that_died_is_said(kernel, method):
    """Whichever of the two we wait for."""
    kernel["alive"] = False
    watch = Watch(FakeTarget(NoSuchThread("gone")), sighting(*STUCK))

    assert getattr(watch, method)(5.0).outcome is Outcome.TARGET_DIED


def test_thread_that_settles_where_it_was_has_survived(kernel):
    """Some code caught the exception and went back: seen for a while, not at the first look."""
    target = FakeTarget(sighting(*STUCK))
    verdict = effect(target, sighting(*STUCK))

    assert verdict.outcome is Outcome.SURVIVED
    assert 0.3 < kernel["now"] < 1
    assert target.looks > 5


def test_thread_that_settles_elsewhere_is_unwound(kernel):
    """The stuck call is no longer on its stack."""
    verdict = effect(FakeTarget(sighting("other@8000", "run@9000", "_bootstrap")), sighting(*STUCK))

    assert verdict.outcome is Outcome.UNWOUND
    assert verdict.sighting.thread.frames[0].function == "other"


def test_thread_that_moves_is_given_its_time(kernel):
    """It tidies up in a finally block, each look elsewhere; then it ends."""
    moving = [sighting("clean", f"step@{0x8000 + 0x100 * number:x}", *STUCK) for number in range(30)]
    kernel["start"] = None
    verdict = effect(FakeTarget(*moving, NoSuchThread("gone")), sighting(*STUCK))

    assert verdict.outcome is Outcome.ENDED


@pytest.mark.parametrize(("impatient", "earliest", "latest"), [(False, 5.0, 5.5), (True, 1.0, 1.5)])
def test_thread_that_stays_inside_the_stuck_call_has_survived(kernel, impatient, earliest, latest):
    """It is elsewhere, above the frame that was stuck: after all the time, or for the impatient after a second."""
    verdict = effect(FakeTarget(sighting("caught", *STUCK)), sighting(*STUCK), impatient=impatient)

    assert verdict.outcome is Outcome.SURVIVED
    assert earliest < kernel["now"] < latest


@pytest.mark.parametrize("doing", [Doing.WAITING_FOR_GIL, Doing.WAITING_FOR_COLLECTOR])
def test_thread_that_waits_for_its_turn_is_not_settled(kernel, doing):
    """It cannot go on, whatever it would do: nothing is decided before the time is over."""
    kernel["doing"] = doing
    effect(FakeTarget(sighting(*STUCK)), sighting(*STUCK))

    assert kernel["now"] >= 5.0


def test_thread_that_seldom_gets_its_turn_is_given_its_time(kernel):
    """Once in ten looks: it stands where it stood for ten times as long before that tells anything."""
    kernel["doing"] = cycle([Doing.WAITING_FOR_COLLECTOR] * 9 + [Doing.IN_SYSTEM_CALL])
    verdict = effect(FakeTarget(sighting(*STUCK)), sighting(*STUCK))

    assert verdict.outcome is Outcome.SURVIVED
    assert 2 < kernel["now"] < 5


def test_pool_worker_that_waits_for_work_is_unwound_at_once(kernel):
    """Back at its queue: two looks are enough."""
    target = FakeTarget(sighting(*WAITING))
    verdict = effect(target, sighting(*WORKER))

    assert verdict.outcome is Outcome.UNWOUND
    assert kernel["now"] < 0.1


def test_pool_worker_with_the_next_work_item_is_unwound(kernel):
    """It may run the same function in the same frames: another item is another call."""
    target = FakeTarget(sighting(*WORKER))
    target.work_items[RUN] = 0xAAAA
    watch = Watch(target, sighting(*WORKER))
    same = watch.is_back_at_work(sighting(*WORKER))
    target.work_items[RUN] = 0xBBBB

    assert not same
    assert watch.is_back_at_work(sighting(*WORKER))
    assert watch.wait_for_effect(5.0).outcome is Outcome.UNWOUND


def test_pool_worker_with_the_same_work_item_has_survived(kernel):
    """The work caught the exception and went on."""
    target = FakeTarget(sighting(*WORKER))
    target.work_items[RUN] = 0xAAAA

    assert effect(target, sighting(*WORKER)).outcome is Outcome.SURVIVED


@pytest.mark.parametrize(
    ("functions", "expected"),
    [
        (STUCK, False),
        (("inner", *STUCK), False),
        (("victim", "run@9000", "_bootstrap"), True),
        (("sleep@8000", "victim", "run@9000", "_bootstrap"), True),
        ((), False),
    ],
)
def test_stuck_call_is_known_by_its_frame_and_code(kernel, functions, expected):
    """Anywhere on the stack; a thread without frames tells nothing."""
    assert Watch(FakeTarget(), sighting(*STUCK)).is_back_at_work(sighting(*functions)) is expected


def test_thread_that_had_no_frames_is_never_back(kernel):
    """There is nothing that could be gone."""
    assert not Watch(FakeTarget(), sighting()).is_back_at_work(sighting(*STUCK))


@pytest.mark.parametrize("minor", [8, 11, 12, 13, 14])
def test_delivery_is_seen_in_the_thread_state(kernel, minor):
    """The pending exception is gone: it was raised."""
    pending = sighting(*STUCK, pending=0x1234, minor=minor)
    raised = sighting(*STUCK, minor=minor)
    target = FakeTarget(pending, pending, raised, minor=minor)
    verdict = Watch(target, pending).wait_for_delivery(5.0)

    assert (verdict.outcome, verdict.delivered, target.looks) == (None, True, 3)


def test_thread_that_blocks_will_not_notice(kernel):
    """In one system call for some milliseconds: it has to be interrupted."""
    kernel["doing"] = Doing.IN_SYSTEM_CALL
    pending = sighting(*STUCK, pending=1)
    verdict = Watch(FakeTarget(pending), pending).wait_for_delivery(5.0)

    assert (verdict.delivered, verdict.stuck_in_c) == (False, False)
    assert 0.005 < kernel["now"] < 0.1


def test_thread_that_the_collector_holds_up_may_notice_yet(kernel):
    """It sleeps for that, and in no call that could be interrupted."""
    kernel["doing"] = Doing.WAITING_FOR_COLLECTOR
    held_up, going_on = (sighting(*STUCK, pending=pending) for pending in (1, 0))
    verdict = Watch(FakeTarget(*[held_up] * 50, going_on), held_up).wait_for_delivery(5.0)

    assert verdict.delivered
    assert kernel["now"] > 0.1


def test_thread_that_runs_without_noticing_is_in_c_code(kernel):
    """Bytecode would have noticed within that much CPU time."""
    kernel["cpu per look"] = 0.01
    pending = sighting(*STUCK, pending=1)
    verdict = Watch(FakeTarget(pending), pending).wait_for_delivery(5.0)

    assert (verdict.delivered, verdict.stuck_in_c) == (False, True)
    assert kernel["now"] < 1


def test_thread_that_waits_for_the_gil_is_waited_for(kernel):
    """Until the time is over: it uses no CPU, and is in no call of its own."""
    kernel["doing"] = Doing.WAITING_FOR_GIL
    pending = sighting(*STUCK, pending=1)
    verdict = Watch(FakeTarget(pending), pending).wait_for_delivery(5.0)

    assert (verdict.outcome, verdict.delivered, verdict.stuck_in_c) == (None, False, False)
    assert 5.0 <= kernel["now"] < 5.5


def test_thread_that_ends_before_it_is_seen_to_notice_has_ended(kernel):
    """Delivery and end were faster than we."""
    kernel["start"] = None
    pending = sighting(*STUCK, pending=1)
    verdict = Watch(FakeTarget(pending, NoSuchThread("gone")), pending).wait_for_delivery(5.0)

    assert (verdict.outcome, verdict.delivered) == (Outcome.ENDED, True)


@pytest.fixture
def life(monkeypatch, kernel):
    """The process's status and its GIL, look by look (the last for ever)."""
    facts = {"status": status(), "gils": [Gil(0, 0, 1)]}

    def read_status(pid):
        if isinstance(facts["status"], Exception):
            raise facts["status"]
        return facts["status"]

    def read_gil(memory, layout, address):
        gil = facts["gils"].pop(0) if len(facts["gils"]) > 1 else facts["gils"][0]
        if isinstance(gil, Exception):
            raise gil
        return gil

    monkeypatch.setattr(verify, "read_status", read_status)
    monkeypatch.setattr(verify, "read_gil", read_gil)
    kernel["start"] = FakeTarget().start_time
    return facts


@pytest.mark.parametrize(
    ("gils", "expected"),
    [
        ([Gil(0, 0, 1)], "the GIL goes round (seen free)"),
        ([Gil(0, 0, 0, enabled=False)], "there is no GIL"),
        ([Gil(0, 7, 1), Gil(0, 8, 2)], "the GIL goes round (seen changing hands)"),
        ([Gil(0, 7, 1), Gil(0, 7, 2)], "the GIL goes round (seen changing hands)"),
        ([Gil(0, 7, 1), Gil(0, 7, 1), Gil(0, 0, 1)], "the GIL goes round (seen free)"),
        ([Gil(0, 7, 1)], "the GIL is HELD BY NO LIVING THREAD"),
        ([BadAddress(1, 8)], "the interpreter is gone"),
    ],
)
def test_gil_that_goes_round_is_a_proof_of_life(life, gils, expected):
    """And one that nobody living holds is a proof of the contrary."""
    life["gils"] = gils

    assert check_life(FakeTarget(), INTERPRETER) == verify.Life(True, ("the process lives", expected))


def test_holder_of_the_gil_is_named_with_its_place(life):
    """A thread that keeps it."""
    life["gils"] = [Gil(0, 7, 1)]
    target = FakeTarget()
    target.gil_holder = replace(THREAD, frames=(Frame("spin", "x.py", 3),))

    assert check_life(target, INTERPRETER).evidence[-1] == "the GIL is held by thread 4712 in spin (x.py:3)"


@pytest.mark.parametrize("state", [status(state="Z"), status(state="X"), NoSuchProcess("gone")])
def test_ended_process_is_dead(life, state):
    """A zombie is not alive."""
    life["status"] = state

    assert check_life(FakeTarget(), INTERPRETER) == verify.Life(False, ("the process ended",))


@pytest.mark.parametrize("start", [None, 12345])
def test_reused_pid_is_not_the_process(life, kernel, start):
    """Gone between two looks, or another one."""
    kernel["start"] = start

    assert not check_life(FakeTarget(), INTERPRETER).alive


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"state": "T"}, ["STOPPED", "kill -CONT"]), ({"tracer": 9, "state": "t"}, ["STOPPED", "TRACED by process 9"])],
)
def test_process_that_is_left_stopped_or_traced_is_said(life, changes, words):
    """It lives, and not as it should."""
    life["status"] = status(**changes)
    found = check_life(FakeTarget(), INTERPRETER)

    assert found.alive
    assert all(word in " ".join(found.evidence) for word in words)


def test_own_process_lives(own_memory):
    """With the real kernel."""
    target = Target(os.getpid())
    (interpreter,) = list_interpreters(own_memory, target.runtime)
    begin = time.monotonic()

    assert check_life(target, interpreter).alive
    assert time.monotonic() - begin < 5
