"""Never long anywhere: short sleeps, short lock waits and bytecode in turn; what fits now does not fit next."""

import threading
import time

import _backchannel

WAITS_IN = ("running", "clock_nanosleep", "select", "pselect6", "futex")
MOVES = True
EXPECTED = {"raise": "ended", "interrupt": "ended"}

LOCK = threading.Lock()


def victim():
    while True:
        time.sleep(0.002)
        LOCK.acquire(timeout=0.002)
        sum(range(20000))


LOCK.acquire()
_backchannel.run(victim)
