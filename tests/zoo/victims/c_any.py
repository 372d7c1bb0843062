"""Looking without end, in C, for something true, holding the GIL: no bytecode runs, and nothing asks for signals."""

import itertools

import _backchannel

WAITS_IN = ("running",)
FREEZES = True
EXPECTED = {"": "pending", "cut": "ended"}


def victim():
    any(itertools.repeat(0))


_backchannel.run(victim)
