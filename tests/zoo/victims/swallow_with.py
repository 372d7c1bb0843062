"""A context manager whose ``__exit__`` says that nothing happened, in a loop: there is no handler to be seen."""

import time

import _backchannel

WAITS_IN = ("clock_nanosleep", "select", "pselect6")
EXPECTED = {"raise": "survived", "interrupt": "survived", "insist": "ended"}


class Forgiving:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return True


def victim():
    while True:
        with Forgiving():
            time.sleep(100000)


_backchannel.run(victim)
