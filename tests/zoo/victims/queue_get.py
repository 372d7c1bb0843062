"""A worker whose queue stays empty."""

import queue

import _backchannel

WAITS_IN = ("futex",)
EXPECTED = {"interrupt": "ended"}

QUEUE = queue.Queue()


def victim():
    QUEUE.get()


def aftercare():
    QUEUE.put(42)
    assert QUEUE.get(timeout=10) == 42


_backchannel.run(victim, aftercare=aftercare)
