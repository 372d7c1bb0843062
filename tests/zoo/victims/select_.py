"""In select(2), on a pipe that stays empty."""

import os
import select

import _backchannel

WAITS_IN = ("select", "pselect6")
EXPECTED = {"interrupt": "ended"}

READ, WRITE = os.pipe()


def victim():
    select.select([READ], [], [])


_backchannel.run(victim)
