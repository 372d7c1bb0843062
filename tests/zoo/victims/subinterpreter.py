"""A thread of a sub-interpreter: other modules and classes, another GIL since 3.12; unknown to the main interpreter."""

import json
import os
import sys
import time

import _backchannel

try:
    import _interpreters as interpreters  # since 3.13
except ImportError:
    import _xxsubinterpreters as interpreters

WAITS_IN = ("clock_nanosleep", "select", "pselect6")
EXPECTED = {"interrupt": "ended"}

READ, WRITE = os.pipe()
CODE = """
import json, os, _thread, threading, time

def victim():
    me = threading.current_thread()
    os.write({0}, (json.dumps(dict(ident=me.ident, tid=me.native_id, name=me.name)) + "\\n").encode())
    try:
        time.sleep(100000)
    finally:
        os.write({0}, b"finally\\n")

threading.Thread(target=victim, name="victim").start()
"""
# 3.9 to 3.11 allow no threads in an isolated one; 3.8 knows no other kind.
INTERPRETER = interpreters.create(**({"isolated": False} if (3, 9) <= sys.version_info < (3, 12) else {}))
LINES = []


def victim():
    raise AssertionError("nobody calls this: the code above is the victim")


def lines():
    os.set_blocking(READ, False)
    try:
        LINES.extend(os.read(READ, 4096).decode().splitlines())
    except BlockingIOError:
        pass
    return LINES


def start(body):
    interpreters.run_string(INTERPRETER, CODE.format(WRITE))
    while not lines():
        time.sleep(0.001)
    _backchannel._me.update(json.loads(LINES[0]), interpreter=1)


def truth():
    me = _backchannel._me
    return [dict(me, daemon=False, main=False, functions=None)]


def more():
    return {"finally_ran": "finally" in lines()}


def aftercare():
    if (3, 12) <= sys.version_info < (3, 14):
        # 3.12.1, 3.13.0 and 3.13.5 crash when such an interpreter is ended, also when its thread returned by itself.
        _backchannel.leave_at_once()
    interpreters.destroy(INTERPRETER)


_backchannel.run(victim, start, more, truth, aftercare)
