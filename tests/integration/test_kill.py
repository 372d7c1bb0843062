"""``kill`` goes on where ``cancel`` stops: it raises again while code in the thread catches the exception."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

import threadsurgeon
from tests.integration.command import run
from tests.integration.test_cancel import assert_left_in_order
from tests.zoo.behaviours import Behaviour, all_behaviours
from tests.zoo.pythons import Python
from tests.zoo.victim import Victim

Start = Callable[..., Victim]

pytestmark = pytest.mark.usefixtures("gdb")


# What only `kill` ends, by the techniques that each victim's file names.
HARDER = [name for name, behaviour in all_behaviours().items() if {"cut", "insist"} & behaviour.expected.keys()]


@pytest.mark.behaviours("stubborn", "lock", "busy_loop", *HARDER)
def test_kill_ends_what_cancel_does_not(python: Python, behaviour: Behaviour, stuck: Start) -> None:
    """C code that never checks, and code that catches every exception, or the first few."""
    victim = stuck(python, behaviour)
    report = threadsurgeon.kill(victim.tid, pid=victim.pid, grace=5.0 if behaviour.killed else 3.0)

    assert report.outcome.value == (behaviour.killed or "ended"), report.detail
    assert behaviour.killed or behaviour.expects(python, report.technique, report.outcome.value), report.attempts
    assert report.process_alive
    assert_left_in_order(victim, report)
    victim.finish()


@pytest.mark.behaviours("swallow_c", "swallow_ctypes")
def test_report_tells_of_every_cut(python: Python, behaviour: Behaviour, stuck: Start) -> None:
    """C code that never checks, below a handler that catches everything, is cut more than once, and each time is told."""
    victim = stuck(python, behaviour)
    report = threadsurgeon.kill(victim.tid, pid=victim.pid)
    techniques = [attempt.technique for attempt in report.attempts]

    assert (report.outcome.value, report.technique) == ("ended", "insist"), report
    assert techniques.index("cut") < techniques.index("insist")
    assert len(report.cut) > 1
    assert all(frame.function == "victim" for frame in report.skipped)
    assert_left_in_order(victim, report)
    victim.finish()


@pytest.mark.behaviours("swallow_del", "swallow_del_loop", "swallow_callback")
def test_dropped_exceptions_are_said_to_be(python: Python, behaviour: Behaviour, stuck: Start) -> None:
    """C code that cannot tell anybody of an error has dropped it: no more are raised, and the reason is given."""
    victim = stuck(python, behaviour)
    report = threadsurgeon.kill(victim.tid, pid=victim.pid, grace=3.0)

    assert report.outcome.value == "survived"
    assert "dropped by the C code that called it" in report.detail
    victim.assert_lives_on(unwound=False)
    assert not victim.thread_is_gone()


@pytest.mark.parametrize(("behaviour", "status", "outcome"), [("stubborn", 0, "ended"), ("swallower", 0, "ended")])
def test_kill_by_command_line(behaviour: str, status: int, outcome: str, any_python: Python, stuck: Start) -> None:
    """The exit status is the outcome's."""
    victim = stuck(any_python, behaviour)
    result = run("kill", str(victim.tid), "--grace", "2", "--json")

    assert result.returncode == status, result.stderr
    assert json.loads(result.stdout)["outcome"] == outcome
    victim.assert_lives_on()
