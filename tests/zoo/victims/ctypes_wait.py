"""Waiting in a foreign function that goes back to waiting however often it is interrupted, the GIL released."""

import ctypes

import _backchannel

WAITS_IN = ("rt_sigtimedwait",)
EXPECTED = {"": "pending", "cut": "ended"}

LIBC = ctypes.CDLL(None)
NO_SIGNALS = ctypes.create_string_buffer(128)  # sigset_t


def victim():
    LIBC.sigwait(NO_SIGNALS, ctypes.byref(ctypes.c_int()))


_backchannel.run(victim)
