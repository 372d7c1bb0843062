"""In poll(2), on a pipe that stays empty."""

import os
import select

import _backchannel

WAITS_IN = ("poll", "ppoll")
EXPECTED = {"interrupt": "ended"}

READ, WRITE = os.pipe()


def victim():
    poll = select.poll()
    poll.register(READ, select.POLLIN)
    poll.poll()


_backchannel.run(victim)
