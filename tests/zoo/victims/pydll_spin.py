"""Spinning in a foreign function that never returns, while holding the GIL: the whole process stands still."""

import ctypes

import _backchannel

WAITS_IN = ("running",)
FREEZES = True
EXPECTED = {"": "pending", "cut": "ended"}

LIBC = ctypes.PyDLL(None)
ENDLESS = ctypes.c_size_t(-1)


def victim():
    # Compares the same two words again and again: elements of size 0, and as many as can be counted.
    LIBC.lfind(b"this", b"that", ctypes.byref(ENDLESS), ctypes.c_size_t(0), LIBC.strcmp)


_backchannel.run(victim)
