"""A list that is being extended from a source that never yields, holding the GIL: others can see the list."""

import itertools

import _backchannel

WAITS_IN = ("running",)
FREEZES = True
EXPECTED = {"": "pending", "cut": "ended"}

LIST = [1, 2, 3]


def victim():
    LIST.extend(filter(None, itertools.repeat(0)))


def aftercare():
    LIST.append(4)
    assert LIST == [1, 2, 3, 4]


_backchannel.run(victim, aftercare=aftercare)
