"""Bytecode that calls functions all the time: the innermost frame is another one at every look."""

import _backchannel

WAITS_IN = ("running",)
EXPECTED = {"raise": "ended"}


def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def victim():
    while True:
        fibonacci(15)


_backchannel.run(victim)
