"""Waiting for a condition: ending means taking its lock again first, and giving it back."""

import threading

import _backchannel

WAITS_IN = ("futex",)
EXPECTED = {"interrupt": "ended"}

CONDITION = threading.Condition()


def victim():
    with CONDITION:
        CONDITION.wait()


def aftercare():
    assert CONDITION.acquire(False), "the condition's lock was not given back"
    CONDITION.release()


_backchannel.run(victim, aftercare=aftercare)
