"""Waiting for a lock on a file that another open file holds."""

import fcntl

import _backchannel

WAITS_IN = ("flock",)
EXPECTED = {"interrupt": "ended"}


def victim():
    with open("locked", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


HOLDER = open("locked", "w")
fcntl.flock(HOLDER, fcntl.LOCK_EX)
_backchannel.run(victim)
