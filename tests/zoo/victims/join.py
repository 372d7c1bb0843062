"""Waiting for another thread to end, which it does not: the other must stay as it was."""

import threading

import _backchannel

WAITS_IN = ("futex",)
EXPECTED = {"interrupt": "ended"}

RELEASE = threading.Event()
JOINED = threading.Thread(target=RELEASE.wait, name="joined")


def victim():
    JOINED.join()


def aftercare():
    assert JOINED.is_alive()
    RELEASE.set()
    JOINED.join(10)
    assert not JOINED.is_alive()


JOINED.start()
_backchannel.run(victim, aftercare=aftercare)
