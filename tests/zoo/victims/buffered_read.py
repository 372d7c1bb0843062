"""Reading through a buffer, whose own lock the thread holds meanwhile: the file must stay usable."""

import os

import _backchannel

WAITS_IN = ("read",)
EXPECTED = {"interrupt": "ended"}

READ, WRITE = os.pipe()
FILE = os.fdopen(READ, "rb")


def victim():
    FILE.read(10)


def aftercare():
    os.write(WRITE, b"0123456789")
    assert FILE.read(10) == b"0123456789"


_backchannel.run(victim, aftercare=aftercare)
