"""``kill`` goes on where ``cancel`` stops: it raises again while code in the thread catches the exception."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

import threadsurgeon
from tests.integration.test_cancel import assert_left_in_order, assert_untouched
from tests.integration.test_list import run
from tests.zoo.behaviours import Behaviour
from tests.zoo.pythons import Python
from tests.zoo.victim import Victim

Start = Callable[..., Victim]

pytestmark = pytest.mark.usefixtures("gdb")


@pytest.mark.behaviours("stubborn", "swallower", "lock", "busy_loop")
def test_kill_ends_what_gives_in(python: Python, behaviour: Behaviour, stuck: Start) -> None:
    """Code that catches an exception a few times ends; code that always does survives, and the process with it."""
    victim = stuck(python, behaviour)
    report = threadsurgeon.kill(victim.tid, pid=victim.pid, grace=5.0 if behaviour.killed != "survived" else 1.0)

    assert report.outcome.value == (behaviour.killed or "ended"), report.detail
    assert report.process_alive
    if report.outcome.is_success:
        assert_left_in_order(victim, report)
        victim.finish()
    else:
        assert_untouched(victim)


@pytest.mark.parametrize(("behaviour", "status", "outcome"), [("stubborn", 0, "ended"), ("swallower", 3, "survived")])
def test_kill_by_command_line(behaviour: str, status: int, outcome: str, any_python: Python, stuck: Start) -> None:
    """The exit status is the outcome's."""
    victim = stuck(any_python, behaviour)
    result = run("kill", str(victim.tid), "--grace", "2", "--json")

    assert result.returncode == status, result.stderr
    assert json.loads(result.stdout)["outcome"] == outcome
    victim.assert_lives_on(unwound=outcome == "ended")
