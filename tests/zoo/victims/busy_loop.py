"""Pure bytecode: never enters the kernel, never calls anything."""

import _backchannel

WAITS_IN = ("running",)
EXPECTED = {"raise": "ended"}


def victim():
    while True:
        pass


_backchannel.run(victim)
