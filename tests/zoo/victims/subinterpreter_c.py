"""A thread of a sub-interpreter that adds up without end in C, holding the GIL: since 3.12 one that nobody else waits for."""

import _subinterpreter

WAITS_IN = ("running",)
FREEZES = True
EXPECTED = {"": "pending", "cut": "ended"}

_subinterpreter.run("sum(itertools.count())")
