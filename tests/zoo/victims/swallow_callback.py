"""A foreign function that calls back into Python all the time: ctypes drops what is raised there, and the function goes on."""

import ctypes
import time

import _backchannel

WAITS_IN = ("clock_nanosleep", "select", "pselect6")
EXPECTED = {"raise": "survived", "interrupt": "survived"}
KILLED = "survived"

LIBC = ctypes.CDLL(None)
MANY = 1000000


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
def compare(*_):
    time.sleep(100000)
    return 0


def victim():
    while True:
        LIBC.qsort(ctypes.create_string_buffer(MANY), ctypes.c_size_t(MANY), ctypes.c_size_t(1), compare)


_backchannel.run(victim)
