"""``cancel`` ends every victim as its file says, on every CPython, and the process lives on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

import threadsurgeon
from tests.integration.command import run
from tests.zoo.behaviours import Behaviour, all_behaviours
from tests.zoo.pythons import Python
from tests.zoo.victim import Victim, waiting
from threadsurgeon.model.operations import Outcome, Report

Start = Callable[..., Victim]

# Beyond this a thread that was frozen or busy is not "ended by us" any more.
TIMEOUT = 10.0

pytestmark = pytest.mark.usefixtures("gdb")


@pytest.mark.behaviours(*(b.name for b in all_behaviours().values() if "refused" not in b.outcomes))
def test_cancel_ends_the_thread_and_nothing_else(python: Python, behaviour: Behaviour, stuck: Start) -> None:
    """The outcome is the declared one, ``finally`` ran, locks are free, nobody else noticed, the process ends well."""
    victim = stuck(python, behaviour)
    report = cancel(victim, timeout=TIMEOUT if not behaviour.may_stay else TIMEOUT / 4)

    outcome = report.outcome.value
    assert behaviour.expects(python, report.technique, outcome), f"{report.technique}: {outcome}: {report.detail}"
    assert report.process_alive
    assert (report.pid, report.tid, report.ident) == (victim.pid, victim.tid, victim.ident)
    if not behaviour.spins:  # the stack of a thread that runs is read while it changes
        assert any(frame.function.endswith("victim") for frame in report.stack_before)
    if report.outcome.is_success:
        assert report.exception == behaviour.exception
        assert_left_in_order(victim, report)
        victim.finish()
    else:
        assert_untouched(victim)


@pytest.mark.behaviours("sleep", "busy_loop", "lock")
def test_exception_of_choice_is_raised(python: Python, behaviour: Behaviour, stuck: Start) -> None:
    """Any builtin exception can be raised; the traceback that ``threading`` prints shows the stuck line."""
    victim = stuck(python, behaviour)
    report = cancel(victim, exception="ZeroDivisionError")
    status = victim.assert_lives_on()

    assert report.outcome is Outcome.ENDED
    assert report.exception == "ZeroDivisionError"
    assert status["saw"] == "ZeroDivisionError"
    assert status["exceptions"] == ["ZeroDivisionError"]
    victim.finish()
    assert "in victim" in victim.stderr


@pytest.mark.behaviours("lock")
def test_cancel_by_command_line(python: Python, behaviour: Behaviour, stuck: Start) -> None:
    """The command says in JSON what it did, and its exit status is that of the outcome."""
    victim = stuck(python, behaviour)
    result = run("cancel", str(victim.tid), "--json")

    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert (answer["tid"], answer["outcome"], answer["process_alive"]) == (victim.tid, "ended", True)
    victim.assert_lives_on()
    victim.finish()


def test_dry_run_touches_nothing(any_python: Python, stuck: Start) -> None:
    """The plan names the thread, and the thread stays where it is."""
    victim = stuck(any_python, "lock")
    result = run("cancel", str(victim.tid), "--dry-run", "--json")

    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["tid"] == victim.tid
    assert victim.system_call() == "futex"
    assert not victim.assert_lives_on(unwound=False)["finally_ran"]


def test_one_after_the_other(any_python: Python, stuck: Start) -> None:
    """Many threads of one process can be ended, one by one; the rest of them wait on."""
    count = 12
    victim = stuck(any_python, "threads_1000", ZOO_THREADS=str(count))
    waiters = [thread["tid"] for thread in victim.ready["threads"] if thread["name"].startswith("waiter")]

    for number, tid in enumerate(waiters, 1):
        assert threadsurgeon.cancel(tid, pid=victim.pid, timeout=TIMEOUT).outcome is Outcome.ENDED
        names = victim.ask("status")["threads"]
        assert sum(name.startswith("waiter") for name in names) == count - number
    assert cancel(victim).outcome is Outcome.ENDED
    victim.assert_lives_on()
    victim.finish()


def test_others_are_not_stopped(any_python: Python, stuck: Start) -> None:
    """While one thread is operated on, the others go on: the tickers keep their pace."""
    victim = stuck(any_python, "sleep")
    begin, before = time.monotonic(), victim.ask("status")["ticks"]
    report = cancel(victim)
    after, seconds = victim.ask("status")["ticks"], time.monotonic() - begin

    assert report.stopped_seconds < 1
    for then, now in zip(before, after, strict=True):
        assert now - then > seconds / 0.01 / 4  # a tick takes 10 ms and what the machine needs to get round to it


def cancel(victim: Victim, *, exception: str | None = None, timeout: float = TIMEOUT) -> Report:
    return threadsurgeon.cancel(victim.tid, pid=victim.pid, exception=exception, timeout=timeout)


def assert_left_in_order(victim: Victim, report: Report) -> None:
    status = victim.assert_lives_on()
    if not victim.behaviour.name.startswith("subinterpreter"):  # its code does not say
        assert status["saw"] == report.exception
    if report.outcome is Outcome.ENDED:
        for _ in waiting(f"{victim}: the thread is gone"):
            if victim.thread_is_gone():
                break
        names = [thread["name"] for thread in victim.ready["threads"] if thread["tid"] == victim.tid]
        assert not {*names} & {*victim.ask("status")["threads"]}  # by name: idents are soon used again
        assert report.stack_after == ()
    else:
        assert status["more"] == {"future": report.exception, "served_by": victim.ident}
        assert not victim.thread_is_gone()


def assert_untouched(victim: Victim) -> None:
    """It was not ended: then it goes on as before, and the process with it."""
    assert victim.process.poll() is None
    assert victim.is_traced_or_stopped() == []
    if not victim.behaviour.freezes:
        victim.assert_lives_on(unwound=False)
    assert not victim.thread_is_gone()
