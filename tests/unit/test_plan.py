"""What is planned for a thread by looking at it, and when nothing is: refusals and their reasons."""

import pytest

from tests.unit.examples import replace
from tests.unit.fake_target import GIL, RUNTIME, FakeTarget, sighting, status
from threadsurgeon.cpython.held_locks import HeldLock, Holdings, WithBlock
from threadsurgeon.errors import NoSuchThread, Refused, TargetBusy
from threadsurgeon.linux.process import FUTEX, SystemCall
from threadsurgeon.model.threads import Frame
from threadsurgeon.surgery import builds, plan
from threadsurgeon.surgery.builds import refuse_technique
from threadsurgeon.surgery.ladder import Policy
from threadsurgeon.surgery.plan import Doing, examine, find_doing, find_hazards, make_plan

NOTHING_HELD = Holdings((), (), (), False, True)


@pytest.fixture
def kernel(monkeypatch):
    """What the kernel says: the status of tasks, and the system call of the thread."""
    facts = {"status": status(), "tracer": status(name="gdb"), "call": None, "holdings": NOTHING_HELD, "musl": False}
    monkeypatch.setattr(plan, "read_thread_status", lambda tid: facts["status"])
    monkeypatch.setattr(plan, "read_status", lambda task: facts["tracer"])
    monkeypatch.setattr(plan, "read_system_call", lambda pid, tid: facts["call"])
    monkeypatch.setattr(plan, "read_holdings", lambda *arguments: facts["holdings"])
    monkeypatch.setattr(builds, "uses_musl", lambda pid: facts["musl"])
    return facts


def call(number, *arguments):
    return SystemCall(number, (*arguments, *[0] * (6 - len(arguments))), 0, 0)


def gil_size():
    return FakeTarget().runtime.layout.gil_runtime_state.size


@pytest.mark.parametrize(
    ("system_call", "expected", "techniques"),
    [
        (None, Doing.RUNNING, ("raise", "interrupt")),
        (call(0, 3), Doing.IN_SYSTEM_CALL, ("interrupt",)),
        (call(FUTEX, 0x9999), Doing.IN_SYSTEM_CALL, ("interrupt",)),
        (call(FUTEX, GIL - 4), Doing.IN_SYSTEM_CALL, ("interrupt",)),
        (call(FUTEX, GIL), Doing.WAITING_FOR_GIL, ("raise", "interrupt")),
        (call(FUTEX, GIL + gil_size() - 4), Doing.WAITING_FOR_GIL, ("raise", "interrupt")),
        (call(FUTEX, GIL + gil_size()), Doing.IN_SYSTEM_CALL, ("interrupt",)),
        (call(0, GIL), Doing.IN_SYSTEM_CALL, ("interrupt",)),
    ],
)
def test_what_a_thread_does_chooses_the_techniques(kernel, system_call, expected, techniques):
    """A futex inside of the GIL is a wait for the GIL, and every other call has to be interrupted."""
    kernel["call"] = system_call
    examination = examine(FakeTarget(), sighting("f"), None)

    assert (examination.doing, examination.techniques) == (expected, techniques)
    assert find_doing(FakeTarget(), sighting("f")) is expected


@pytest.mark.parametrize("minor", [13, 14, 15])
@pytest.mark.parametrize("free_threaded", [True, False])
@pytest.mark.parametrize("about", ["its state", "another thread's state", "nothing readable"])
def test_thread_that_the_world_holds_up_waits_for_the_collector(kernel, minor, free_threaded, about):
    """It sleeps on a semaphore behind the address of its own state; only builds without a GIL stop the world."""
    semaphore = 0x9008
    kernel["call"] = call(FUTEX, semaphore)
    thread = sighting("f", minor=minor, free_threaded=free_threaded)
    target = FakeTarget(thread, minor=minor, free_threaded=free_threaded)
    state = thread.state.address + target.runtime.layout.thread_state.state
    if about != "nothing readable":
        parked = state if about == "its state" else state + target.runtime.layout.thread_state.size
        target.memory.write_pointer(semaphore - 8, parked)

    held_up = free_threaded and about == "its state"
    assert find_doing(target, thread) is (Doing.WAITING_FOR_COLLECTOR if held_up else Doing.IN_SYSTEM_CALL)


@pytest.mark.parametrize(
    ("given", "functions", "expected"),
    [
        (None, ["f"], "SystemExit"),
        (None, ["f", "run", "_worker"], "TimeoutError"),
        ("KeyError", ["f"], "KeyError"),
        ("SystemExit", ["f", "run", "_worker"], "SystemExit"),
        ("", ["f"], ""),
    ],
)
def test_exception_suits_the_thread(kernel, given, functions, expected):
    """A pool worker's SystemExit would travel on; an empty name is a name, to be refused later."""
    assert examine(FakeTarget(), sighting(*functions), given).exception == expected


def test_main_thread_is_refused(kernel):
    """With what to do instead."""
    with pytest.raises(Refused, match="4712 is the main thread of process 4711") as caught:
        examine(FakeTarget(), replace(sighting("f"), thread=replace(sighting("f").thread, main=True)), None)

    assert caught.value.hint.endswith("--main")
    assert caught.value.exit_status == 5


def test_free_threaded_build_on_which_nothing_was_shown_is_refused(kernel):
    """And where it was, the reason says so."""
    with pytest.raises(Refused, match=r"free-threaded build.* 3\.13, 3\.14 only"):
        examine(FakeTarget(minor=15, free_threaded=True), sighting("f"), None)


def test_thread_of_musl_is_not_terminated(kernel):
    """It has books of its threads that a thread must take itself off."""
    kernel["musl"] = True
    examination = examine(FakeTarget(), sighting("f"), None)
    rungs = make_plan(examination, Policy(climb=True, force=True)).rungs

    assert [rung.technique for rung in rungs] == ["raise", "interrupt", "cut", "insist"]
    with pytest.raises(Refused, match="musl"):
        refuse_technique(examination.target, "terminate")
    refuse_technique(examination.target, "cut")


@pytest.mark.parametrize("minor", [13, 14])
@pytest.mark.parametrize("force", [False, True])
def test_free_threaded_build_is_not_cut(kernel, force, minor):
    """The plan does not name what would be refused."""
    examination = examine(FakeTarget(minor=minor, free_threaded=True), sighting("f"), None)
    plan = make_plan(examination, Policy(climb=True, force=force))

    assert [rung.technique for rung in plan.rungs] == ["raise", "interrupt", "insist"]
    for technique in ("cut", "terminate"):
        with pytest.raises(Refused, match="free-threaded"):
            refuse_technique(examination.target, technique)
    refuse_technique(FakeTarget(minor=minor), "cut")


def test_unexpected_structures_are_refused(kernel):
    """They may be looked at, not operated on."""
    with pytest.raises(Refused, match="describes other structures"):
        examine(FakeTarget(problem="the target describes other structures"), sighting("f"), None)


@pytest.mark.parametrize("minor", [8, 11, 12, 13, 14])
def test_process_that_shuts_down_is_refused(kernel, minor):
    """Its threads end with it."""
    target = FakeTarget(minor=minor)
    target.memory.write_pointer(RUNTIME + target.runtime.layout.runtime_state.finalizing, 0x7F0000000000)

    with pytest.raises(Refused, match="shutting down"):
        examine(target, sighting("f"), None)


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"tracer": 99}, r"traced by process 99 \(gdb\)", "end that tracer first"),
        ({"tracer": 99, "state": "t"}, r"traced by process 99 \(gdb\)", "end that tracer first"),
        ({"state": "t"}, "process 4711 is stopped", "let it continue first: kill -CONT 4711"),
        ({"state": "T"}, "process 4711 is stopped", "let it continue first: kill -CONT 4711"),
        ({"state": "D"}, r"device or disk \(state D\)", None),
    ],
)
def test_busy_thread_is_left_alone(kernel, changes, message, hint):
    """Traced by another, stopped, or where nothing can interrupt it."""
    kernel["status"] = status(**changes)
    with pytest.raises(TargetBusy, match=message) as caught:
        examine(FakeTarget(), sighting("f"), None)

    assert caught.value.hint == hint


def test_thread_that_ends_meanwhile_is_said(kernel, monkeypatch):
    """The kernel knows first."""

    def gone(pid, tid):
        raise NoSuchThread("process 4711 has no thread 4712")

    monkeypatch.setattr(plan, "read_system_call", gone)
    with pytest.raises(NoSuchThread):
        examine(FakeTarget(), sighting("f"), None)


def test_plan_says_what_why_and_where(kernel):
    """For people and programs, whatever the thread does."""
    reasons = set()
    for kernel["call"] in (None, call(0), call(FUTEX, GIL)):
        made = make_plan(examine(FakeTarget(), sighting("inner", "outer"), None), Policy())
        reasons.add(made.reason)

        assert (made.pid, made.tid, made.name, made.exception) == (4711, 4712, "worker", "SystemExit")
        assert made.doing.endswith(", at inner (/app/main.py:1)")
        assert [frame.function for frame in made.stack] == ["inner", "outer"]
        assert made.warnings == ()
    assert len(reasons) == 3


def test_plan_says_what_the_thread_holds(kernel):
    """Each lock once, with the block that will release it, and how certain that is."""
    lock = HeldLock("_thread.lock", 0x1000, 1, 0, "with block", True)
    rlock = HeldLock("_thread.RLock", 0x2000, 1, 1, "local variable", False)
    block = WithBlock(0, "_thread.lock", 0x1000, None, lock, False, True)
    kernel["holdings"] = Holdings((block,), (lock, rlock), (1,), True, True)
    made = make_plan(examine(FakeTarget(), sighting("inner", "outer"), None), Policy())

    assert list(made.holds) == [
        "with block of _thread.lock, which holds _thread.lock at 0x1000, in inner (/app/main.py:1)",
        "_thread.RLock at 0x2000, local variable of outer (/app/main.py:1) (not certain)",
        "an exception that is being handled, in outer (/app/main.py:1)",
    ]


@pytest.mark.parametrize(("force", "hard"), [(False, ("cut", "insist")), (True, ("cut", "insist", "terminate"))])
def test_plan_of_kill_names_every_rung(kernel, force, hard):
    """Each with when it is used, and what it may leave behind."""
    made = make_plan(examine(FakeTarget(), sighting("f"), None), Policy(climb=True, force=force))

    assert [rung.technique for rung in made.rungs] == ["raise", "interrupt", *hard]
    assert all(rung.when and rung.leaves_behind for rung in made.rungs)


def test_plan_of_a_thread_without_frames(kernel):
    """It is just starting."""
    assert make_plan(examine(FakeTarget(), sighting(), None), Policy()).doing.endswith("no Python frame")


@pytest.mark.parametrize(
    ("frames", "pool", "minor", "exception", "expected"),
    [
        ([("f", "x.py")], False, 12, "SystemExit", []),
        ([("f", "x.py")], True, 12, "TimeoutError", []),
        ([("f", "x.py")], True, 12, "SystemExit", ["future"]),
        ([("f", "x.py")], True, 12, "KeyboardInterrupt", ["future"]),
        ([("_wait_for_tstate_lock", "threading.py"), ("join", "threading.py")], False, 8, "SystemExit", []),
        ([("_wait_for_tstate_lock", "threading.py"), ("join", "threading.py")], False, 9, "SystemExit", ["Thread.join"]),
        ([("_wait_for_tstate_lock", "threading.py"), ("join", "threading.py")], False, 12, "SystemExit", ["Thread.join"]),
        ([("_wait_for_tstate_lock", "threading.py"), ("join", "threading.py")], False, 13, "SystemExit", []),
        ([("f", "x.py"), ("_load", "<frozen importlib._bootstrap>")], False, 12, "SystemExit", ["import"]),
        ([("f", "x.py"), ("__exit__", "x.py")], False, 12, "SystemExit", ["__exit__"]),
        ([("__del__", "x.py")], True, 12, "SystemExit", ["future", "__del__"]),
    ],
)
def test_hazards_are_named(frames, pool, minor, exception, expected):
    """What may break where the thread is, and nothing else."""
    thread = replace(sighting("f").thread, frames=tuple(Frame(*frame, 1) for frame in frames), pool_worker=pool)
    hazards = find_hazards(thread, (3, minor), exception)

    assert len(hazards) == len(expected)
    assert all(word in hazard for word, hazard in zip(expected, hazards, strict=True))
