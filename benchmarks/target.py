"""The process that is measured: THREADS threads in `time.sleep`, and a heartbeat that needs no GIL.

    python target.py [--lock] THREADS [HEARTBEAT_LIBRARY GAPS_FILE CPU...]

With --lock they wait for a lock of the main thread's instead. Prints their TIDs when all of them are there. Without threads it
is the control process.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import sys
import threading
import time


def sleep(started: threading.Semaphore) -> None:
    """Be one of many."""
    started.release()
    time.sleep(1_000_000)


def wait(started: threading.Semaphore, lock: threading.Lock) -> None:
    """Be one of many behind one lock."""
    started.release()
    with lock:
        pass


def start_heartbeats(library: str, path: str, cpus: list[int]) -> mmap.mmap:
    """Start one heartbeat per CPU given (-1: on any), all writing to one file, one after the other."""
    with open(path, "r+b") as file:
        mapping = mmap.mmap(file.fileno(), 0)
    share = len(mapping) // len(cpus)
    start = ctypes.CDLL(library).heartbeat_start
    start.argtypes = [ctypes.c_void_p, ctypes.c_int]
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    for number, cpu in enumerate(cpus):
        if start(address + number * share, cpu):
            raise SystemExit("no thread for the heartbeat")
    return mapping


def main() -> None:
    """Start everything, say so, and then allocate a little now and then: memray attaches only where somebody does."""
    lock = threading.Lock() if sys.argv[1] == "--lock" else None
    if lock is not None:
        del sys.argv[1]
    wanted = int(sys.argv[1])
    heartbeats = None  # the mapping lives as long as this name does
    if len(sys.argv) > 2:
        heartbeats = start_heartbeats(sys.argv[2], sys.argv[3], [int(cpu) for cpu in sys.argv[4:]])
    threading.stack_size(64 * 1024)
    started = threading.Semaphore(0)
    body = (wait, (started, lock)) if lock is not None else (sleep, (started,))
    threads = [threading.Thread(target=body[0], args=body[1], daemon=True) for _ in range(wanted)]
    with lock or contextlib.nullcontext():
        for thread in threads:
            thread.start()
        for _ in threads:
            started.acquire()
        print(json.dumps([thread.native_id for thread in threads]), flush=True)
        while heartbeats is None or not heartbeats.closed:
            time.sleep(0.02)
            bytearray(100_000)


if __name__ == "__main__":
    main()
