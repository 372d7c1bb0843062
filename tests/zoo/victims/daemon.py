"""A daemon thread: Python would not wait for it at the end of the process."""

import threading
import time

import _backchannel

WAITS_IN = ("clock_nanosleep", "select", "pselect6")
EXPECTED = {"interrupt": "ended"}


def victim():
    time.sleep(100000)


def start(body):
    threading.Thread(target=body, name="victim", daemon=True).start()


_backchannel.run(victim, start)
