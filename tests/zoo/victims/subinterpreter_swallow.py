"""A thread of a sub-interpreter that catches everything: handlers of another interpreter's code."""

import _subinterpreter

WAITS_IN = ("clock_nanosleep", "select", "pselect6")
EXPECTED = {"raise": "survived", "interrupt": "survived", "insist": "ended"}

_subinterpreter.run(
    """
    while True:
        try:
            time.sleep(100000)
        except BaseException:
            pass
    """
)
