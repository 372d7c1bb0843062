"""Consuming an endless iterator in a type's constructor, holding the GIL: the object is half made."""

import collections
import itertools

import _backchannel

WAITS_IN = ("running",)
FREEZES = True
EXPECTED = {"": "pending", "cut": "ended"}


def victim():
    collections.deque(itertools.repeat(0), maxlen=0)


_backchannel.run(victim)
