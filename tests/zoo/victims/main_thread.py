"""The stuck thread is the main one: ending it is ending the process, and it cannot be attached to alone."""

import threading

import _backchannel

WAITS_IN = ("futex",)
EXPECTED = {"": "refused"}

LOCK = threading.Lock()


def victim():
    LOCK.acquire()


LOCK.acquire()
_backchannel.run(victim, in_main=True)
