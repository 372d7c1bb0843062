"""A loop inside ``__del__`` that catches everything; and what leaves it is dropped by CPython itself."""

import time

import _backchannel

WAITS_IN = ("clock_nanosleep", "select", "pselect6")
EXPECTED = {"raise": "survived", "interrupt": "survived"}
KILLED = "survived"



class Clinging:
    def __del__(self):
        while True:
            try:
                time.sleep(100000)
            except BaseException:
                pass


def victim():
    while True:
        Clinging()


_backchannel.run(victim)
