"""The sacrificial process of `make demo`: threads that are stuck, each in its own way, and others that have work to do.

Runs under any CPython 3.8 or newer. It prints what happens to it, obeys the words that come in on stdin, and prints
`tick` ten times a second for as long as it lives and its threads may run.
"""

from __future__ import annotations

import concurrent.futures
import queue
import re
import socket
import sys
import threading
import time
from collections.abc import Callable

LOCKS: dict[str, threading.Lock] = {}
THREADS: list[threading.Thread] = []


def say(text: str) -> None:
    """Write one line, whole: other threads write too."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def stuck(name: str) -> Callable[[Callable[[], object]], None]:
    """Start a thread that gets stuck while it holds a lock of its own."""

    def start(get_stuck: Callable[[], object]) -> None:
        lock = LOCKS[name] = threading.Lock()

        def body() -> None:
            with lock:
                try:
                    get_stuck()
                finally:
                    say(f"{name}: finally ran")

        body.__name__ = get_stuck.__name__
        THREADS.append(threading.Thread(target=body, name=name))
        THREADS[-1].start()

    return start


@stuck("sleeper")
def sleep_for_ages() -> None:
    """Sleep for a day and more."""
    time.sleep(100_000)


forgotten = threading.Lock()
forgotten.acquire()


@stuck("lock-waiter")
def wait_for_a_lock_that_nobody_gives_back() -> None:
    """Wait for a lock."""
    with forgotten:
        pass


@stuck("consumer")
def get_from_a_queue_that_nobody_fills() -> None:
    """Wait for work."""
    queue.Queue().get()


ours, silent_peer = socket.socketpair()


@stuck("receiver")
def receive_from_a_silent_peer() -> None:
    """Wait for data."""
    ours.recv(1)


@stuck("spinner")
def spin() -> None:
    """Compute for ever."""
    while True:
        pass


pool = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="pool")
stuck_job = pool.submit(time.sleep, 100_000)


def freeze() -> None:
    """Hold the GIL in one call for longer than anybody will wait: from here on no other thread runs."""

    @stuck("regex")
    def match_a_catastrophic_pattern() -> None:
        re.match(r"(a+)+$", "a" * 60 + "b")


def check() -> None:
    """Say what the operations have left behind."""
    alive = [thread.name for thread in THREADS if thread.is_alive()]
    held = [name for name, lock in LOCKS.items() if lock.locked()]
    for thread in THREADS:
        if thread.name not in alive:
            thread.join()
    say(f"stuck threads left: {', '.join(alive) or 'none'}; all others joined")
    say(f"locks still held: {', '.join(held) or 'none'}")
    say(f"the stuck job of the pool: {stuck_job.exception(timeout=1)!r}")
    say(f"a new job for the pool: {pool.submit(lambda: 'done').result(timeout=1)}")


def tick() -> None:
    """Show that the process is alive and well."""
    while True:
        say("tick")
        time.sleep(0.1)


threading.Thread(target=tick, name="ticker", daemon=True).start()
say("ready")
for word in sys.stdin:
    if word.strip() == "freeze":
        freeze()
    elif word.strip() == "check":
        check()
    else:
        break
pool.shutdown()
say("bye")
