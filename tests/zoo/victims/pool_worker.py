"""A worker of a thread pool: the pool never replaces it, and hands what it raises to whoever asks for the result."""

import threading
from concurrent.futures import ThreadPoolExecutor

import _backchannel

WAITS_IN = ("futex",)
EXPECTED = {"interrupt": "unwound"}
EXCEPTION = "TimeoutError"  # chosen by default: SystemExit would travel through the future

LOCK = threading.Lock()
POOL = ThreadPoolExecutor(1, "pool")
FUTURES = []


def victim():
    with LOCK:
        raise AssertionError("the lock was another's")


def start(body):
    FUTURES.append(POOL.submit(body))


def more():
    future = FUTURES[0]
    if not future.done():
        return {"future": None}
    return {"future": type(future.exception()).__name__, "served_by": POOL.submit(threading.get_ident).result(10)}


def aftercare():
    assert POOL.submit(pow, 2, 3).result(10) == 8
    POOL.shutdown()
    assert LOCK.locked()


LOCK.acquire()
_backchannel.run(victim, start, more, aftercare=aftercare)
