"""Waiting without a limit for a lock that another thread holds and never gives back."""

import threading

import _backchannel

WAITS_IN = ("futex",)
EXPECTED = {"interrupt": "ended"}

LOCK = threading.Lock()


def victim():
    with LOCK:
        raise AssertionError("the lock was another's")


def aftercare():
    assert LOCK.locked(), "the main thread holds it, whatever happened to the victim"
    LOCK.release()
    assert LOCK.acquire(False)


LOCK.acquire()
_backchannel.run(victim, aftercare=aftercare)
