"""C code that never checks for signals, below a handler that catches everything: raising is not heard, a cut is caught."""

import itertools

import _backchannel

WAITS_IN = ("running",)
FREEZES = True
EXPECTED = {"": "pending", "insist": "ended"}


def victim():
    while True:
        try:
            sum(itertools.count())
        except BaseException:
            pass


_backchannel.run(victim)
