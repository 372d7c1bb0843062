"""Catches what is raised in it twice, then lets go: code that retries."""

import time

import _backchannel

WAITS_IN = ("clock_nanosleep", "select", "pselect6")
EXPECTED = {"raise": "survived", "interrupt": "survived"}
KILLED = "ended"


def victim():
    for _ in range(2):
        try:
            time.sleep(100000)
        except BaseException:
            pass
    time.sleep(100000)


_backchannel.run(victim)
