"""Arithmetic with a huge int, holding the GIL: the whole process stands still."""

import _backchannel

WAITS_IN = ("running",)
FREEZES = True
EXPECTED = {"interrupt": "ended"}
# Since 3.15 (gh-144748) the check for signals also notices a pending exception.
EXPECTED_SINCE = {(3, 15): {"raise": "ended"}}
# The check for signals is inlined there: there is no function to return an error from.
EXPECTED_LTO = {"": "pending"}


def victim():
    pow(3, 10**9)


_backchannel.run(victim)
