"""Started below ``threading``: there is no Thread object, so no name, and nothing to join."""

import _thread
import time

import _backchannel

WAITS_IN = ("clock_nanosleep", "select", "pselect6")
EXPECTED = {"interrupt": "ended"}


def victim():
    time.sleep(100000)


def start(body):
    _thread.start_new_thread(body, ())


def truth():
    me = _backchannel._me
    return [{"ident": me["ident"], "tid": me["tid"], "name": None, "daemon": None, "main": False, "functions": None}]


_backchannel.run(victim, start, truth=truth)
