"""One among a thousand threads, all waiting for the same event (ZOO_THREADS=5000 for another number)."""

import os
import threading

import _backchannel

WAITS_IN = ("futex",)
EXPECTED = {"interrupt": "ended"}
SLOW = True

RELEASE = threading.Event()


def victim():
    RELEASE.wait()


def start(body):
    threading.stack_size(256 * 1024)
    for i in range(int(os.environ.get("ZOO_THREADS", "1000"))):
        threading.Thread(target=RELEASE.wait, name="waiter-%d" % i).start()
    threading.Thread(target=body, name="victim").start()


_backchannel.run(victim, start, aftercare=RELEASE.set)
