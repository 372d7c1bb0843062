"""Three handlers around each other, and a loop in each: one that is left leads into the next."""

import time

import _backchannel

WAITS_IN = ("clock_nanosleep", "select", "pselect6")
EXPECTED = {"raise": "survived", "interrupt": "survived", "insist": "ended"}


def victim():
    while True:
        try:
            while True:
                try:
                    while True:
                        try:
                            time.sleep(100000)
                        except BaseException:
                            pass
                except BaseException:
                    pass
        except BaseException:
            pass


_backchannel.run(victim)
