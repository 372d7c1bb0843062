"""Catches everything and goes on: an exception alone does not end it."""

import time

import _backchannel

WAITS_IN = ("running", "clock_nanosleep", "select", "pselect6", "futex")
MOVES = True
EXPECTED = {"raise": "survived", "interrupt": "survived", "insist": "ended"}


def victim():
    while True:
        try:
            while True:
                time.sleep(0.001)
        except BaseException:
            pass


_backchannel.run(victim)
