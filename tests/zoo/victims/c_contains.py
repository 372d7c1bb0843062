"""Looking for what is not there, in a C function that answers with an int and not with an object, holding the GIL."""

import itertools

import _backchannel

WAITS_IN = ("running",)
FREEZES = True
EXPECTED = {"": "pending", "cut": "ended"}


def victim():
    assert 1 in itertools.repeat(0)


_backchannel.run(victim)
