"""Starts a sacrificial process, waits until it is stuck as its file says, and asks afterwards whether it lives on."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from .behaviours import Behaviour, all_behaviours
from .pythons import Python

# The calls that victims wait in, by their number on x86-64 (arch/x86/entry/syscalls/syscall_64.tbl).
SYSCALLS = {
    0: "read",
    2: "open",
    7: "poll",
    23: "select",
    34: "pause",
    35: "nanosleep",
    43: "accept",
    45: "recvfrom",
    61: "wait4",
    73: "flock",
    128: "rt_sigtimedwait",
    202: "futex",
    230: "clock_nanosleep",
    232: "epoll_wait",
    247: "waitid",
    257: "openat",
    270: "pselect6",
    271: "ppoll",
    281: "epoll_pwait",
    288: "accept4",
}

# A thread that waits for the GIL wakes every 5 ms: this many looks, this far apart, tell it from one that is stuck.
LOOKS = 4
BETWEEN_LOOKS = 0.006
SPUN_SECONDS = 0.03  # this much CPU time in a row is no longer the way into the loop

TRACEBACKS = re.compile(
    r"(Exception (ignored )?in thread|Unhandled exception in thread|Exception ignored (in|on|while)"
    r"|Traceback \(most recent call last\):)"
)
FATAL = re.compile(r"Fatal Python error|Assertion|Segmentation|refcount|corrupt|malloc", re.IGNORECASE)


class VictimFailed(AssertionError):
    """The sacrificial process did not do its part; carries what it printed."""


def waiting(what: str, deadline_seconds: float = 20.0, pause: float = 0.003) -> Iterator[float]:
    """``for _ in waiting("…")``: tries again until the deadline, then fails with the words given."""
    begin = time.monotonic()
    while (elapsed := time.monotonic() - begin) < deadline_seconds:
        yield elapsed
        time.sleep(pause)
    raise VictimFailed(f"not within {deadline_seconds:g} s: {what}")


class Victim:
    """One running sacrificial process. Use ``with start(python, behaviour) as victim``."""

    def __init__(self, python: Python, behaviour: Behaviour, directory: str, environment: dict[str, str]) -> None:
        self.python = python
        self.behaviour = behaviour
        self.stderr_path = Path(directory, "stderr")
        with open(self.stderr_path, "wb") as stderr:
            self.process = subprocess.Popen(
                # Debug builds complain of files left open at the end, which victims do.
                [python.command, "-B", "-W", "ignore::ResourceWarning", str(behaviour.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=directory,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", **environment},
            )
        self._buffer = b""
        try:
            self.ready = self._answer(60)
        except BaseException:
            self.kill()
            raise
        self.tid: int = self.ready["victim"]["tid"]
        self.ident: int = self.ready["victim"]["ident"]

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text(errors="replace")

    def ask(self, command: str, deadline_seconds: float = 20.0) -> dict[str, Any]:
        """Send one command, return its answer."""
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps({"command": command}).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._failed("does not listen") from None
        return self._answer(deadline_seconds)

    def wait_until_stuck(self, deadline_seconds: float = 60.0) -> None:
        """Return once the kernel shows the victim's thread where its file says it gets stuck."""
        first = self._cpu_seconds()
        seen: list[tuple[str, int]] = []
        for _ in waiting(f"{self} stuck in {self.behaviour.waits_in}", deadline_seconds, BETWEEN_LOOKS):
            if self.behaviour.spins:
                if self._cpu_seconds() - first > SPUN_SECONDS and self.system_call() == "running":
                    return
                continue
            if self.behaviour.moves:
                if self._switches() > 20:
                    return
                continue
            seen.append((self._syscall_line(), self._switches()))
            if self.system_call() in self.behaviour.waits_in and len(set(seen[-LOOKS:])) == 1 and len(seen) >= LOOKS:
                return

    def system_call(self, tid: int | None = None) -> str:
        """Name what the kernel shows a thread in: a system call, or "running"."""
        word = self._syscall_line(tid).split()[0]
        return SYSCALLS.get(int(word), word) if word.lstrip("-").isdigit() else word

    def is_traced_or_stopped(self) -> list[str]:
        """Name every task that is traced or stopped; empty is well."""
        found = []
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            try:
                status = (task / "status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended while we looked
            state = re.search(r"^State:\s+(.*)$", status, re.M)
            tracer = re.search(r"^TracerPid:\s+(\d+)$", status, re.M)
            assert state
            assert tracer
            if tracer[1] != "0" or state[1][0] in "tT":
                found.append(f"task {task.name}: {state[1]}, traced by {tracer[1]}")
        return found

    def thread_is_gone(self) -> bool:
        return not Path(f"/proc/{self.pid}/task/{self.tid}").exists()

    def assert_lives_on(self, *, unwound: bool = True) -> dict[str, Any]:
        """Assert that the process is well; with ``unwound``, that the victim's code was left in order."""
        before = self.ask("status")["ticks"]
        for _ in waiting(f"{self}: both tickers tick"):
            status = self.ask("status")
            if all(now > then + 1 for now, then in zip(status["ticks"], before, strict=True)):
                break
        assert self.is_traced_or_stopped() == []
        assert self.process.poll() is None
        if unwound:
            for _ in waiting(f"{self}: finally ran and the lock was given back"):
                if status.get("more", {}).get("finally_ran", status["finally_ran"]) and status["lock_free"]:
                    break
                status = self.ask("status")
        return status

    def finish(self) -> None:
        """Ask the process to end in order, and assert that it had nothing to complain about."""
        answer = self.ask("finish", 40)
        assert answer["left"] == [], self._failed("left threads behind")
        try:
            status = self.process.wait(40)
        except subprocess.TimeoutExpired:
            raise self._failed("said it would finish, and did not end") from None
        if status != 0:
            raise self._failed(f"exit status {status}")
        if self.stderr and (FATAL.search(self.stderr) or not TRACEBACKS.match(self.stderr)):
            raise self._failed("printed what it should not")

    def kill(self) -> None:
        """End the process and its children, whatever state they are in. Only those: by their own ids."""
        children = []
        if self.process.poll() is None:
            with contextlib.suppress(psutil.Error):
                children = psutil.Process(self.pid).children(recursive=True)
            self.process.kill()
        self.process.wait(30)
        for child in children:
            with contextlib.suppress(psutil.Error):
                child.kill()  # psutil compares the start time first: never another's process
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def __str__(self) -> str:
        return f"{self.behaviour.name} on {self.python.name} (PID {self.pid})"

    def _answer(self, deadline_seconds: float) -> dict[str, Any]:
        assert self.process.stdout
        deadline = time.monotonic() + deadline_seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise self._failed(f"no answer within {deadline_seconds:g} s")
                data = os.read(self.process.stdout.fileno(), 1 << 16)
                if not data:
                    self.process.wait(30)
                    raise self._failed("ended instead of answering")
                self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _failed(self, what: str) -> VictimFailed:
        return VictimFailed(f"{self}: {what}; exit status {self.process.poll()}; stderr:\n{self.stderr or '(empty)'}")

    def _task(self, name: str, tid: int | None = None) -> str:
        try:
            return Path(f"/proc/{self.pid}/task/{tid or self.tid}/{name}").read_text()
        except (FileNotFoundError, ProcessLookupError):
            raise self._failed(f"its thread {tid or self.tid} ended") from None

    def _syscall_line(self, tid: int | None = None) -> str:
        return self._task("syscall", tid)

    def _cpu_seconds(self) -> float:
        return int(self._task("schedstat").split()[0]) / 1e9

    def _switches(self) -> int:
        return sum(map(int, re.findall(r"ctxt_switches:\s+(\d+)", self._task("status"))))


@contextlib.contextmanager
def start(python: Python, behaviour: Behaviour | str, **environment: str) -> Iterator[Victim]:
    """Run one victim in an environment of its own until the block ends. It is ready, and may not be stuck yet."""
    if isinstance(behaviour, str):
        behaviour = all_behaviours()[behaviour]
    with tempfile.TemporaryDirectory(prefix="threadsurgeon-zoo-", ignore_cleanup_errors=True) as directory:
        victim = Victim(python, behaviour, directory, environment)
        try:
            yield victim
        finally:
            victim.kill()


@contextlib.contextmanager
def stuck(python: Python, behaviour: Behaviour | str, **environment: str) -> Iterator[Victim]:
    """Like ``start``, and the victim is stuck when the block begins."""
    with start(python, behaviour, **environment) as victim:
        victim.wait_until_stuck()
        yield victim
