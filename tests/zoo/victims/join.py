"""Waiting for another thread to end, which it does not: the other must stay as it was."""

import sys
import threading

import _backchannel

WAITS_IN = ("futex",)
EXPECTED = {"interrupt": "ended"}

RELEASE = threading.Event()
JOINED = threading.Thread(target=RELEASE.wait, name="joined")


def victim():
    JOINED.join()


def aftercare():
    # From 3.9 to 3.12 any exception in join(), as of ^C, lets threading believe that the joined thread has ended
    # (bpo-45274); the thread itself knows nothing of it.
    assert JOINED.is_alive() or (3, 9) <= sys.version_info < (3, 13)
    assert JOINED.ident in sys._current_frames()
    RELEASE.set()
    JOINED.join(10)
    assert not JOINED.is_alive()


JOINED.start()
_backchannel.run(victim, aftercare=aftercare)
