"""A thread that C made and Python knows nothing of, waiting for a lock by spinning: nowhere does it let go of anything."""

import ctypes
import os
import time

import _backchannel

WAITS_IN = ("running",)
EXPECTED = {"": "refused"}

LIBC = ctypes.CDLL(None)
LIBC.calloc.restype = ctypes.c_void_p
# Never freed: the thread spins on it until the process is gone, longer than Python lives.
SPIN_LOCK = ctypes.c_void_p(LIBC.calloc(1, 64))


def victim():
    raise AssertionError("nobody calls this")


def start(body):
    assert LIBC.pthread_spin_init(SPIN_LOCK, 0) == 0
    assert LIBC.pthread_spin_lock(SPIN_LOCK) == 0
    before = set(os.listdir("/proc/self/task"))
    handle = ctypes.c_ulong()
    spin = ctypes.cast(LIBC.pthread_spin_lock, ctypes.c_void_p)
    assert LIBC.pthread_create(ctypes.byref(handle), None, spin, SPIN_LOCK) == 0
    while set(os.listdir("/proc/self/task")) <= before:
        time.sleep(0.001)
    (tid,) = set(os.listdir("/proc/self/task")) - before
    _backchannel._me.update(ident=handle.value, tid=int(tid), python=False)


_backchannel.run(victim, start)
