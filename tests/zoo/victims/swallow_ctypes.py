"""A foreign function that never returns, the GIL released, called by code that catches everything."""

import ctypes

import _backchannel

WAITS_IN = ("running",)
EXPECTED = {"": "pending", "insist": "ended"}

LIBC = ctypes.CDLL(None)


def victim():
    while True:
        try:
            LIBC.lfind(b"this", b"that", ctypes.byref(ctypes.c_size_t(-1)), ctypes.c_size_t(0), LIBC.strcmp)
        except BaseException:
            pass


_backchannel.run(victim)
