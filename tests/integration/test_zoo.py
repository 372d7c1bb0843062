"""The sacrificial processes do what their files say: get ready, tell the truth, get stuck where declared."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.zoo.behaviours import Behaviour, all_behaviours
from tests.zoo.pythons import Python
from tests.zoo.victim import Victim, waiting

Start = Callable[..., Victim]


def test_victim_gets_stuck_as_declared(python: Python, behaviour: Behaviour, start: Start) -> None:
    """Every victim is soon where the kernel shows it in the declared call, and the rest of its process moves."""
    victim = start(python, behaviour)
    victim.wait_until_stuck()

    assert victim.ready["pid"] == victim.pid
    assert victim.ready["version"] == "{}.{}.{}".format(*python.version)
    assert os.path.exists(f"/proc/{victim.pid}/task/{victim.tid}")
    if not behaviour.freezes:
        status = victim.assert_lives_on(unwound=False)
        assert not status["finally_ran"]
        assert not status["exceptions"]


@pytest.mark.behaviours("sleep")
def test_victim_whose_test_is_gone_ends(python: Python, behaviour: Behaviour, stuck: Start) -> None:
    """A closed input is the end, so that an aborted run leaves nothing behind."""
    victim = stuck(python, behaviour)
    assert victim.process.stdin
    victim.process.stdin.close()

    assert victim.process.wait(20) == 70


def test_frozen_process_stands_still(any_python: Python, stuck: Start) -> None:
    """A victim that is declared to freeze its process does: no other Python thread of it gets to run."""
    victim = stuck(any_python, "regex")
    tickers = [thread["tid"] for thread in victim.ready["threads"] if thread["name"].startswith("ticker")]

    assert len(tickers) == 2
    for tid in tickers:
        for _ in waiting(f"ticker {tid} of {victim} waits for the GIL"):
            if victim.system_call(tid) == "futex":
                break


def test_every_victim_says_why_it_is_hard_to_stop() -> None:
    """The files are documentation too."""
    for behaviour in all_behaviours().values():
        assert behaviour.description
        assert behaviour.waits_in
        assert behaviour.expected
