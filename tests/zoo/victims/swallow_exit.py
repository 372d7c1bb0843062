"""A loop inside ``__exit__`` that catches everything, below a ``with`` block that has failed."""

import time

import _backchannel

WAITS_IN = ("clock_nanosleep", "select", "pselect6")
EXPECTED = {"raise": "survived", "interrupt": "survived", "insist": "ended"}


class Stubborn:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        while True:
            try:
                time.sleep(100000)
            except BaseException:
                pass


def victim():
    with Stubborn():
        raise ValueError("the reason to leave")


_backchannel.run(victim)
