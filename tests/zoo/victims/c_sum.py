"""Adding up without end in C, holding the GIL: no bytecode runs, and nothing asks for signals."""

import itertools

import _backchannel

WAITS_IN = ("running",)
FREEZES = True
EXPECTED = {"": "pending", "cut": "ended"}


def victim():
    sum(itertools.count())


_backchannel.run(victim)
