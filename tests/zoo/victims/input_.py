"""Waiting for a line that nobody types."""

import os
import sys

import _backchannel

WAITS_IN = ("read",)
EXPECTED = {"interrupt": "ended"}

READ, WRITE = os.pipe()


def victim():
    sys.stdin = os.fdopen(READ)  # the real one brings the commands
    input()


_backchannel.run(victim)
