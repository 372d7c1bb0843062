"""How a victim talks to the test: one JSON line when it is ready, then one JSON answer per JSON command.

A victim file holds one function, ``victim``, that gets stuck, and calls ``run(victim)``. This module does the rest: it
starts the thread and two threads that count ("tickers": they show that the process lives), says who is who, and
serves

    status   what can be seen from inside: ticks, whether ``finally`` ran, whether the victim's lock is free...
    truth    every Python thread with its function names, innermost first
    finish   stop the rest, join every thread that is not a daemon, leave with status 0

Runs on every CPython from 3.8 on, with the standard library only. Nothing here sleeps for a fixed time and hopes.
"""

import _thread
import json
import os
import resource
import sys
import threading
import time
import traceback

BEREFT = 70  # exit status: nobody listens any more (stdin closed)
LEFT_BEHIND = 71  # exit status: a thread did not end when asked to finish

OWN_LOCK = threading.Lock()  # held by the victim for as long as it is stuck: was it given back?

_ticks = [0, 0]
_exceptions = []
_me = {}
_state = {"finally_ran": False, "saw": None, "go": False, "stopping": False}


def run(victim, start=None, more=None, truth=None, aftercare=None, in_main=False):
    """Start the victim and serve commands until told to finish.

    start      called with the body to run in a new thread; the default is ``threading.Thread(name="victim")``
    more       its dictionary is added to every status
    truth      its list of threads is added to the truth: those that ``threading`` does not know
    aftercare  called on "finish": let go of what the others wait for, raise if the victim left something behind
    in_main    the victim is the main thread, and another one serves the commands
    """
    # A victim that freezes its process cannot see that its test is gone: the kernel ends it.
    resource.setrlimit(resource.RLIMIT_CPU, (240, 240))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.excepthook = _reporting(threading.excepthook)
    tickers = [threading.Thread(target=_tick, args=(i,), name="ticker-%d" % i) for i in range(len(_ticks))]
    for ticker in tickers:
        ticker.start()

    def body():
        _me.update(ident=_thread.get_ident(), tid=_thread.get_native_id())
        while not _state["go"]:  # not a lock: looking from outside, waiting here must not look like being stuck
            time.sleep(0.001)
        with OWN_LOCK:
            try:
                victim()
            finally:
                _state["saw"] = getattr(sys.exc_info()[0], "__name__", None)
                _state["finally_ran"] = True

    def serve():
        while not _me:
            time.sleep(0.001)
        _say(dict(_truth(truth), victim=_me))
        _state["go"] = True
        for line in iter(commands.readline, ""):
            command = json.loads(line)["command"]
            if command == "status":
                _say(dict(_status(), more=more() if more else {}))
            elif command == "truth":
                _say(_truth(truth))
            elif command == "finish":
                return _finish(aftercare)
        return os._exit(BEREFT)

    commands = os.fdopen(os.dup(0))
    if in_main:
        threading.Thread(target=serve, name="commands").start()
        body()
    else:
        try:
            (start or _start)(body)
        except BaseException:  # say why and go: the tickers would keep the process waiting
            _give_up()
        serve()


def _start(body):
    threading.Thread(target=body, name="victim").start()


def _tick(i):
    while not _state["stopping"]:
        _ticks[i] += 1
        time.sleep(0.01)


def _reporting(hook):
    def excepthook(arguments):
        _exceptions.append(arguments.exc_type.__name__)
        hook(arguments)

    return excepthook


def _say(answer):
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _status():
    lock_free = OWN_LOCK.acquire(False)
    if lock_free:
        OWN_LOCK.release()
    return {
        "ticks": list(_ticks),
        "finally_ran": _state["finally_ran"],
        "saw": _state["saw"],
        "lock_free": lock_free,
        "threads": [thread.name for thread in threading.enumerate()],
        "exceptions": list(_exceptions),
    }


def _truth(more):
    frames = sys._current_frames()
    # Not those of other interpreters: to touch their frames from here crashes 3.12.1.
    stacks = {thread.ident: list(_walk(frames.get(thread.ident))) for thread in threading.enumerate()}
    threads = [
        {
            "ident": thread.ident,
            "tid": thread.native_id,
            "name": thread.name,
            "daemon": thread.daemon,
            "main": thread is threading.main_thread(),
            "functions": [name for name, _ in stacks.get(thread.ident, ())],
            "lines": [line for _, line in stacks.get(thread.ident, ())],
        }
        for thread in threading.enumerate()
    ]
    return {
        "pid": os.getpid(),
        "version": "%d.%d.%d" % sys.version_info[:3],
        "threads": threads + (more() if more else []),
    }


def _walk(frame):
    while frame is not None:
        yield frame.f_code.co_name, frame.f_lineno
        frame = frame.f_back


def leave_at_once():
    """Answer "finish" without ending the interpreter in order."""
    _say({"left": []})
    os._exit(0)


def _give_up():
    traceback.print_exc()
    sys.stderr.flush()  # before 3.9 it is buffered when it is a file
    os._exit(1)


def _finish(aftercare):
    try:
        if aftercare:
            aftercare()
    except BaseException:
        _give_up()
    _state["stopping"] = True
    deadline = time.monotonic() + 20
    mine = (threading.current_thread(), threading.main_thread())
    others = [thread for thread in threading.enumerate() if not thread.daemon and thread not in mine]
    for thread in others:
        thread.join(max(0.0, deadline - time.monotonic()))
    left = [thread.name for thread in others if thread.is_alive()]
    _say({"left": left})
    if left:
        os._exit(LEFT_BEHIND)
