"""A regular expression that backtracks for ages, holding the GIL: the whole process stands still."""

import re

import _backchannel

WAITS_IN = ("running",)
FREEZES = True
EXPECTED = {"interrupt": "ended"}
# Since 3.15 (gh-144748) the check for signals also notices a pending exception.
EXPECTED_SINCE = {(3, 15): {"raise": "ended"}}

PATTERN = re.compile("(a+)+b")


def victim():
    PATTERN.match("a" * 64)


_backchannel.run(victim)
