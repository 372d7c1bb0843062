"""C code that never checks, below three handlers, each in a loop: one that is left leads into the next."""

import itertools

import _backchannel

WAITS_IN = ("running",)
FREEZES = True
EXPECTED = {"": "pending", "insist": "ended"}


def victim():
    while True:
        try:
            while True:
                try:
                    while True:
                        try:
                            sum(itertools.count())
                        except BaseException:
                            pass
                except BaseException:
                    pass
        except BaseException:
            pass


_backchannel.run(victim)
