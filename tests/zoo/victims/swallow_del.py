"""Stuck in ``__del__`` again and again: CPython itself drops what is raised there, and goes on."""

import time

import _backchannel

WAITS_IN = ("clock_nanosleep", "select", "pselect6")
EXPECTED = {"raise": "survived", "interrupt": "survived"}
KILLED = "survived"



class Clinging:
    def __del__(self):
        time.sleep(100000)


def victim():
    while True:
        Clinging()


_backchannel.run(victim)
