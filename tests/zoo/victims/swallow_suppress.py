"""``contextlib.suppress`` in a loop: the library's own code swallows the exception."""

import contextlib
import time

import _backchannel

WAITS_IN = ("clock_nanosleep", "select", "pselect6")
EXPECTED = {"raise": "survived", "interrupt": "survived", "insist": "ended"}


def victim():
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(100000)


_backchannel.run(victim)
