"""Compressing for minutes in a C library that knows nothing of Python, the GIL released."""

import os
import zlib

import _backchannel

WAITS_IN = ("running",)
EXPECTED = {"": "pending", "cut": "ended"}

# Two letters at random: every place looks like thousands of others, and all of those are compared.
DATA = os.urandom(1 << 25).translate(b"ab" * 128)


def victim():
    zlib.compress(DATA, 9)


_backchannel.run(victim)
