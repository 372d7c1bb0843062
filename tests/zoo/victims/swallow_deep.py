"""Thirty calls deep, and every one of them catches what the one below it raises, and calls again."""

import time

import _backchannel

WAITS_IN = ("clock_nanosleep", "select", "pselect6")
EXPECTED = {"raise": "survived", "interrupt": "survived", "insist": "ended"}


def call(depth):
    while True:
        try:
            if depth == 0:
                time.sleep(100000)
            call(depth - 1)
        except BaseException:
            pass


def victim():
    call(29)


_backchannel.run(victim)
