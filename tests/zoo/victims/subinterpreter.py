"""A thread of a sub-interpreter: other modules and classes, another GIL since 3.12; unknown to the main interpreter."""

import _subinterpreter

WAITS_IN = ("clock_nanosleep", "select", "pselect6")
EXPECTED = {"interrupt": "ended"}

_subinterpreter.run("time.sleep(100000)")
