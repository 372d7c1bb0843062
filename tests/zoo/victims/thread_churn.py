"""One stuck thread while others start and end all the time: whoever walks the list of threads meets freed memory."""

import threading
import time

import _backchannel

WAITS_IN = ("futex",)
EXPECTED = {"interrupt": "ended"}

RELEASE = threading.Event()


def victim():
    RELEASE.wait()


def churn():
    while not RELEASE.is_set():
        batch = [threading.Thread(target=time.sleep, args=(0.001,), name="mayfly") for _ in range(8)]
        for thread in batch:
            thread.start()
        for thread in batch:
            thread.join()


def start(body):
    threading.Thread(target=churn, name="churn").start()
    threading.Thread(target=body, name="victim").start()


_backchannel.run(victim, start, aftercare=RELEASE.set)
