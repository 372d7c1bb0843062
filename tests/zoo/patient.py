"""A sacrificial process that gets stuck as it is told, again and again, each time in a new thread.

Every way to be stuck can also be ended from outside without a debugger (``release``): a thread that was operated on and left
as it was then shows that it still passes every function at which a breakpoint may have been.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .pythons import Python
from .script import Script, script
from .victim import waiting

# The ways to be stuck, by the technique that ends each.
TECHNIQUES = ("raise", "interrupt", "cut", "insist")
KINDS = {"raise": "busy", "interrupt": "read", "cut": "sum", "insist": "swallow", "terminate": "deaf"}
# What the kernel says of a thread that is stuck so: a system call's number on x86-64, or that it runs.
RUNNING = "running"
CALLS = {"read": ("0",), "call": ("0",), "swallow": ("0",), "deaf": ("7", "271")}  # poll, or ppoll

CODE = """
import ctypes, functools, mmap, select

api, LIBC = ctypes.pythonapi, ctypes.CDLL(None)
api.PyThreadState_Get.restype = ctypes.c_void_p
api.PyErr_SetNone.argtypes = [ctypes.py_object]
CHECKS = []
for name in ("PyErr_CheckSignals", "Py_MakePendingCalls", "_PyEval_MakePendingCalls"):
    if hasattr(api, name):
        CHECKS.append(getattr(api, name))
        CHECKS[-1].argtypes = [ctypes.c_void_p]

with open("control", "wb") as file:
    file.write(bytes(mmap.PAGESIZE))
with open("control", "r+b") as file:
    control = mmap.mmap(file.fileno(), 0)  # one byte that can be changed from outside while this process stands still
reader, writer = os.pipe()
buffer = ctypes.create_string_buffer(1)

def pass_freely():
    state = api.PyThreadState_Get()
    for _ in range(100):
        for function in CHECKS:
            function(state)
        try:
            api.PyErr_SetNone(KeyError)
        except KeyError:
            pass

def busy():
    while not control[0]:
        pass

def read():
    os.read(reader, 1)

def add():
    sum(iter(functools.partial(control.__getitem__, 0), 1))

def call():
    LIBC.read(reader, buffer, 1)

def swallow():
    while not control[0]:
        try:
            os.read(reader, 1)
        except BaseException:
            pass
    try:  # where a look into this function's table of handlers may have been watched
        raise KeyError
    except KeyError:
        pass

class Deaf:
    def __del__(self):  # what is raised here is dropped by the C code that called it
        poll.poll()

poll = select.poll()
poll.register(reader, select.POLLIN)

def deaf():
    while not control[0]:
        Deaf()

KINDS = dict(busy=busy, read=read, sum=add, call=call, swallow=swallow, deaf=deaf)

def work(kind, lock, facts):
    try:
        with lock:
            os.write(1, json.dumps({"tid": threading.get_native_id()}).encode() + b"\\n")
            KINDS[kind]()
            pass_freely()
            facts["passed"] = True
    finally:
        facts["tidied"] = True

def tick(number):
    while not stopping:
        ticks[number] += 1
        time.sleep(0.002)

ticks, stopping = [0, 0], []
tickers = [threading.Thread(target=tick, args=(number,)) for number in range(2)]
for ticker in tickers:
    ticker.start()
ready(tickers)
while True:
    line = hear()
    if line == "finish":
        break
    if line == "join":
        thread.join(20)
        before, deadline = list(ticks), time.monotonic() + 20
        while min(now - then for now, then in zip(ticks, before)) < 2 and time.monotonic() < deadline:
            time.sleep(0.001)
        ticked = time.monotonic() < deadline
        facts.update(joined=not thread.is_alive(), free=not lock.locked(), ticked=ticked)
        say(**facts)
        continue
    if line == "let go":
        os.write(writer, b"x")
        continue
    lock, facts = threading.Lock(), dict(passed=False, tidied=False)
    thread = threading.Thread(target=work, args=(line, lock, facts))
    thread.start()
stopping.append(1)
for ticker in tickers:
    ticker.join()
"""


class Patient:
    """The process. ``tid``: that of the thread that got stuck last."""

    def __init__(self, python: Python, process: Script) -> None:
        self.python = python
        self.process = process
        self.tid = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    def get_stuck(self, kind: str) -> int:
        """Start a thread, wait until it is stuck, and return its TID."""
        self.tid = int(self.process.ask(kind)["tid"])
        expected = CALLS.get(kind, (RUNNING,))
        for _ in waiting(f"thread {self.tid} of {self.python} is stuck in {kind}", pause=0.001):
            call = self._read("syscall").split()[0]
            if call in expected and (call != RUNNING or self._cpu_seconds() > 0.01):
                break
        return self.tid

    def is_there(self) -> bool:
        """Whether the thread has not ended."""
        return os.path.exists(f"/proc/{self.pid}/task/{self.tid}")

    def join(self) -> dict[str, Any]:
        """Wait for the thread's end and the tickers' next ticks, and return what it left."""
        return self.process.ask("join", 60)

    def release(self) -> dict[str, Any]:
        """End what it is stuck in, without a debugger, and wait as ``join``."""
        descriptor = os.open(f"/proc/{self.pid}/cwd/control", os.O_WRONLY)
        try:
            os.write(descriptor, b"\1")
        finally:
            os.close(descriptor)
        self.process.tell("let go")
        return self.join()

    def resident_kib(self) -> int:
        """Return how much memory the process has."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None, status
        return int(found[1])

    def traced_or_stopped(self) -> list[str]:
        """Name every thread that is traced or stopped; empty is well."""
        found = []
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            try:
                status = (task / "status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if not re.search(r"^TracerPid:\t0$", status, re.MULTILINE) or re.search(r"^State:\t[tT]", status, re.MULTILINE):
                found.append(task.name)
        return found

    def _read(self, name: str) -> str:
        return Path(f"/proc/{self.pid}/task/{self.tid}/{name}").read_text()

    def _cpu_seconds(self) -> float:
        return int(self._read("schedstat").split()[0]) / 1e9


@contextlib.contextmanager
def patient(python: Python) -> Iterator[Patient]:
    """Run one until the block ends."""
    with script(python, CODE) as process:
        yield Patient(python, process)
