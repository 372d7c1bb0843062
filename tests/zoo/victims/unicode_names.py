"""Threads with names that are long, not ASCII, or no valid text at all."""

import threading

import _backchannel

WAITS_IN = ("futex",)
EXPECTED = {"interrupt": "ended"}

RELEASE = threading.Event()
NAMES = ["", " ", "caf\xe9", "\u0416\u0443\u043a", "\U0001f40d" * 3, "two\nlines\t\x1b[31m", "x" * 500]
NAMES += ["\u7dda" * 300, "\udcff"]


def victim():
    RELEASE.wait()


def start(body):
    for name in NAMES:
        threading.Thread(target=RELEASE.wait, name=name or None).start()
    threading.Thread(target=body, name="victim \u2620 n\xe9 \U0001f40d").start()


_backchannel.run(victim, start, aftercare=RELEASE.set)
