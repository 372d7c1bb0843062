"""Asleep in the kernel: CPython only looks at a pending exception when the sleep is over."""

import time

import _backchannel

WAITS_IN = ("clock_nanosleep", "select", "pselect6")
EXPECTED = {"interrupt": "ended"}


def victim():
    time.sleep(100000)


_backchannel.run(victim)
