"""C code that never checks, caught again and again by a loop inside ``finally``."""

import itertools

import _backchannel

WAITS_IN = ("running",)
FREEZES = True
EXPECTED = {"": "pending", "insist": "ended"}


def victim():
    try:
        raise ValueError("the reason to tidy up")
    finally:
        while True:
            try:
                sum(itertools.count())
            except BaseException:
                pass


_backchannel.run(victim)
