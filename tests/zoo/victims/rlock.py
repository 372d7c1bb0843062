"""Waiting for a reentrant lock: its owner and count must stay the holder's."""

import threading

import _backchannel

WAITS_IN = ("futex",)
EXPECTED = {"interrupt": "ended"}

LOCK = threading.RLock()


def victim():
    with LOCK:
        raise AssertionError("the lock was another's")


def aftercare():
    LOCK.release()  # raises if the main thread is no longer the owner
    LOCK.release()
    assert LOCK.acquire(False)


LOCK.acquire()
LOCK.acquire()
_backchannel.run(victim, aftercare=aftercare)
