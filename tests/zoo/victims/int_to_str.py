"""Turning a huge int into text, in C and quadratic time, holding the GIL: the whole process stands still."""

import sys

import _backchannel

WAITS_IN = ("running",)
FREEZES = True
BEFORE = (3, 12)  # since 3.12 (gh-90716) Lib/_pylong.py does this in Python and in a short time
EXPECTED = {"interrupt": "ended"}
# The check for signals is inlined there: there is no function to return an error from.
EXPECTED_LTO = {"": "pending"}

NUMBER = 1 << 50000000


def victim():
    str(NUMBER)


if hasattr(sys, "set_int_max_str_digits"):
    sys.set_int_max_str_digits(0)
_backchannel.run(victim)
