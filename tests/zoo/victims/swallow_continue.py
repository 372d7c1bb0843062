"""``continue`` inside ``finally``: what was raised is dropped without any handler that names it."""

import warnings

import _backchannel

WAITS_IN = ("clock_nanosleep", "select", "pselect6")
EXPECTED = {"raise": "survived", "interrupt": "survived", "insist": "ended"}

# Compiled here because Python 3.14 warns of it (PEP 765), on standard error.
CODE = """
import time

def victim():
    while True:
        try:
            time.sleep(100000)
        finally:
            continue
"""

warnings.simplefilter("ignore", SyntaxWarning)
exec(CODE)
_backchannel.run(victim)  # noqa: F821
