"""C code that never checks, in a ``with`` block whose ``__exit__`` says that nothing happened, in a loop."""

import itertools

import _backchannel

WAITS_IN = ("running",)
FREEZES = True
EXPECTED = {"": "pending", "insist": "ended"}


class Forgiving:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return True


def victim():
    while True:
        with Forgiving():
            sum(itertools.count())


_backchannel.run(victim)
