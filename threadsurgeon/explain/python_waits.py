"""What a Python thread waits for, as far as the library functions at the top of its stack say.

The kernel shows the same for a lock, a queue and a thread to join: a futex.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from threadsurgeon.model.threads import Frame

# By file and function: the kind, and the words after "waiting for". Of several on top of each other the outermost counts:
# Queue.get calls Condition.wait.
_RULES = {
    ("threading.py", "wait"): ("condition", "a condition"),
    ("threading.py", "wait_for"): ("condition", "a condition"),
    ("threading.py", "_wait"): ("barrier", "a barrier"),
    ("threading.py", "acquire"): ("semaphore", "a semaphore"),
    ("threading.py", "join"): ("thread", "a thread to end"),
    ("threading.py", "_wait_for_tstate_lock"): ("thread", "a thread to end"),
    ("threading.py", "_shutdown"): ("thread", "the threads that are not daemons to end: the program is over"),
    ("queue.py", "get"): ("queue", "an item in a queue"),
    ("queue.py", "put"): ("queue", "room in a queue"),
    ("queue.py", "join"): ("queue", "the items of a queue to be done"),
    ("concurrent/futures/_base.py", "result"): ("future", "the result of a future"),
    ("concurrent/futures/_base.py", "exception"): ("future", "the result of a future"),
    ("concurrent/futures/_base.py", "result_iterator"): ("future", "the result of a future"),
    ("concurrent/futures/_base.py", "wait"): ("future", "some futures"),
    ("concurrent/futures/_base.py", "as_completed"): ("future", "some futures"),
    ("concurrent/futures/thread.py", "_worker"): ("work", "work: an idle pool worker"),
    ("concurrent/futures/thread.py", "shutdown"): ("thread", "the workers of a pool to end"),
    ("multiprocessing/pool.py", "worker"): ("work", "work: an idle pool worker"),
    ("logging/__init__.py", "acquire"): ("lock", "the lock of a logging handler"),
    ("logging/__init__.py", "_acquireLock"): ("lock", "the lock of the logging module"),
    ("logging/__init__.py", "handle"): ("lock", "the lock of a logging handler"),
    ("<frozen importlib._bootstrap>", "acquire"): ("import", "another thread's import"),
    ("asyncio/base_events.py", "_run_once"): ("event-loop", "events: an idle event loop"),
}
# Functions between these that say nothing themselves.
_PASSED = {
    ("threading.py", "__enter__"),
    ("logging/__init__.py", "__enter__"),
    ("multiprocessing/queues.py", "get"),
    ("multiprocessing/connection.py", "recv_bytes"),
    ("multiprocessing/connection.py", "_recv_bytes"),
    ("multiprocessing/connection.py", "_recv"),
    ("multiprocessing/synchronize.py", "__enter__"),
    ("selectors.py", "select"),
    ("<frozen importlib._bootstrap>", "__enter__"),
}
_FILES = sorted({file for file, _ in (*_RULES, *_PASSED)})


def explain_frames(frames: Iterable[Frame]) -> tuple[str, str] | None:
    """Return the kind and the words after "waiting for"; None where the top of the stack, innermost first, says nothing."""
    said = None
    inner = None
    for frame in frames:
        place = _find_place(frame.file, frame.function)
        if place is None or (place not in _RULES and place not in _PASSED):
            break
        # threading's classes share names of methods, and before 3.11 a frame does not tell its class
        if place == ("threading.py", "wait") and inner is not None:
            said = ("barrier", "a barrier") if inner == ("threading.py", "_wait") else ("event", "an event")
        elif place in _RULES:
            said = _RULES[place]
        inner = place
    return said


@lru_cache(maxsize=4096)
def _find_place(file: str, function: str) -> tuple[str, str] | None:
    for known in _FILES:
        if file == known or file.endswith(f"/{known}"):
            return known, function.rpartition(".")[2]
    return None
