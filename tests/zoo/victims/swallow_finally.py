"""A loop inside ``finally`` that catches everything: the place that was to tidy up is where it is stuck."""

import time

import _backchannel

WAITS_IN = ("clock_nanosleep", "select", "pselect6")
EXPECTED = {"raise": "survived", "interrupt": "survived", "insist": "ended"}


def victim():
    try:
        raise ValueError("the reason to tidy up")
    finally:
        while True:
            try:
                time.sleep(100000)
            except BaseException:
                pass


_backchannel.run(victim)
