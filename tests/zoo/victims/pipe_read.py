"""In read(2), on a pipe that stays empty."""

import os

import _backchannel

WAITS_IN = ("read",)
EXPECTED = {"interrupt": "ended"}

READ, WRITE = os.pipe()


def victim():
    os.read(READ, 1)


def aftercare():
    os.write(WRITE, b"x")
    assert os.read(READ, 1) == b"x"


_backchannel.run(victim, aftercare=aftercare)
