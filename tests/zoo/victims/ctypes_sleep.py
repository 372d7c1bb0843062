"""Asleep in a foreign function, the GIL released: it returns when it is interrupted, and bytecode goes on."""

import ctypes

import _backchannel

WAITS_IN = ("clock_nanosleep", "nanosleep")
EXPECTED = {"interrupt": "ended"}

LIBC = ctypes.CDLL(None)


def victim():
    LIBC.sleep(100000)


_backchannel.run(victim)
