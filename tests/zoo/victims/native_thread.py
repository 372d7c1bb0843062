"""A thread that C made and Python knows nothing of: there is no Python to raise anything in."""

import ctypes
import os
import time

import _backchannel

WAITS_IN = ("pause",)
EXPECTED = {"": "refused"}

LIBC = ctypes.CDLL(None)


def victim():
    raise AssertionError("nobody calls this")


def start(body):
    before = set(os.listdir("/proc/self/task"))
    handle = ctypes.c_ulong()
    assert LIBC.pthread_create(ctypes.byref(handle), None, ctypes.cast(LIBC.pause, ctypes.c_void_p), None) == 0
    while set(os.listdir("/proc/self/task")) <= before:
        time.sleep(0.001)
    (tid,) = set(os.listdir("/proc/self/task")) - before
    _backchannel._me.update(ident=handle.value, tid=int(tid), python=False)


_backchannel.run(victim, start)
