"""Waiting for a lock with a limit: the same call, but the kernel has a timer too."""

import threading

import _backchannel

WAITS_IN = ("futex",)
EXPECTED = {"interrupt": "ended"}

LOCK = threading.Lock()


def victim():
    assert not LOCK.acquire(timeout=100000)


def aftercare():
    assert LOCK.locked(), "the main thread holds it, whatever happened to the victim"
    LOCK.release()
    assert LOCK.acquire(False)


LOCK.acquire()
_backchannel.run(victim, aftercare=aftercare)
