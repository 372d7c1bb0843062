"""Opening a FIFO that nobody writes to."""

import os

import _backchannel

WAITS_IN = ("openat", "open")
EXPECTED = {"interrupt": "ended"}


def victim():
    with open("fifo", "rb") as file:
        file.read()


os.mkfifo("fifo")
_backchannel.run(victim)
