"""Asleep in a foreign function while holding the GIL: the whole process stands still, and uses no processor."""

import ctypes

import _backchannel

WAITS_IN = ("clock_nanosleep", "nanosleep")
FREEZES = True
EXPECTED = {"interrupt": "ended"}

LIBC = ctypes.PyDLL(None)


def victim():
    LIBC.sleep(100000)


_backchannel.run(victim)
