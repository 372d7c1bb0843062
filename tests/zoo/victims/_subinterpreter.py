"""Starts the victim's thread in a sub-interpreter, for victims to import: its code knows nothing of this process."""

import json
import os
import sys
import threading
import time

import _backchannel

try:
    import _interpreters as interpreters  # since 3.13
except ImportError:
    import _xxsubinterpreters as interpreters

FROM_THREAD, TO_US = os.pipe()
FROM_US, TO_THREAD = os.pipe()
CODE = """
import itertools, json, os, _thread, threading, time

def get_stuck():
    {2}

def victim():
    me = threading.current_thread()
    os.write({0}, (json.dumps(dict(ident=me.ident, tid=me.native_id, name=me.name)) + "\\n").encode())
    os.read({1}, 1)
    try:
        get_stuck()
    finally:
        os.write({0}, b"finally\\n")

threading.Thread(target=victim, name="victim").start()
"""
# 3.9 to 3.11 allow no threads in an isolated one; 3.8 knows no other kind.
INTERPRETER = interpreters.create(**({"isolated": False} if (3, 9) <= sys.version_info < (3, 12) else {}))
LINES = []


def run(statement):
    """Have the thread get stuck in that statement, as ``_backchannel.run``."""

    def victim():
        raise AssertionError("nobody calls this: the code above is the victim")

    def start(body):
        interpreters.run_string(INTERPRETER, CODE.format(TO_US, FROM_US, statement))
        while not lines():
            time.sleep(0.001)
        _backchannel._me.update(json.loads(LINES[0]), interpreter=1)
        threading.Thread(target=release, name="release").start()

    _backchannel.run(victim, start, more, truth, aftercare)


def release():
    while not _backchannel._state["go"]:
        time.sleep(0.001)
    os.write(TO_THREAD, b"x")


def lines():
    os.set_blocking(FROM_THREAD, False)
    try:
        LINES.extend(os.read(FROM_THREAD, 4096).decode().splitlines())
    except BlockingIOError:
        pass
    return LINES


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
