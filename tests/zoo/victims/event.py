"""Waiting for an event that nobody sets."""

import threading

import _backchannel

WAITS_IN = ("futex",)
EXPECTED = {"interrupt": "ended"}

EVENT = threading.Event()


def victim():
    EVENT.wait()


def aftercare():
    EVENT.set()  # hangs if the victim left the event's lock taken


_backchannel.run(victim, aftercare=aftercare)
