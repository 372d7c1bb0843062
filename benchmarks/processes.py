"""Starts what is measured, and runs what measures: targets, the control process, and tools with a time limit."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.heartbeat import Gaps

TIME_LIMIT = 90.0  # seconds for one run of any tool


@dataclass
class Target:
    """A running target: its process, its sleeping threads, and the gaps of its heartbeat where there is one."""

    process: subprocess.Popen[str]
    tids: list[int] = field(default_factory=list)
    gaps: Gaps | None = None

    @property
    def pid(self) -> int:
        """The process."""
        return self.process.pid


@dataclass(frozen=True)
class Run:
    """One run of one tool."""

    seconds: float
    start: float
    end: float
    status: int | None  # None: over the time limit
    output: str
    complaint: str  # the line on stderr that says why, if it failed

    @property
    def outcome(self) -> str:
        """How it ended, in a word."""
        if self.status is None:
            return f"not finished after {TIME_LIMIT:.0f} s"
        if self.status < 0:
            return f"crashed: {signal.Signals(-self.status).name}"
        return "ok" if self.status == 0 else f"failed: status {self.status}"


@contextlib.contextmanager
def running_target(
    threads: int, *, library: Path | None = None, gaps: Gaps | None = None, behind_lock: bool = False
) -> Iterator[Target]:
    """Run a target, from when all its threads are there."""
    arguments = [*(["--lock"] if behind_lock else []), str(threads)]
    if library and gaps:
        cpus = sorted(os.sched_getaffinity(0)) if gaps.heartbeats > 1 else [-1]
        arguments += [str(library), str(gaps.path), *(str(cpu) for cpu in cpus)]
    script = Path(__file__).with_name("target.py")
    process = subprocess.Popen([sys.executable, str(script), *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"a target with {threads} threads did not start")
        time.sleep(0.5)  # the last thread has said that it is there, and is on its way into its sleep
        yield Target(process, json.loads(line), gaps)
    finally:
        process.kill()
        process.wait()


def run(command: Sequence[str]) -> Run:
    """Run a tool to its end, or to the time limit."""
    start = time.monotonic()
    # A session of its own, so that a tool that hangs can be ended with the gdb it started.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    status: int | None
    try:
        output, complaints = process.communicate(timeout=TIME_LIMIT)
        status = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, complaints = process.communicate()
        status = None
    end = time.monotonic()
    said = complaints.strip().splitlines() if status != 0 else []
    complaint = next((line for line in said if "error" in line.lower()), said[-1] if said else "")
    return Run(end - start, start, end, status, output, complaint)


def tool(name: str) -> str | None:
    """Find a command in our environment, or else on PATH: the gdb that is measured is the one the tools use."""
    beside = Path(sys.executable).with_name(name)
    if name != "gdb" and beside.exists():
        return str(beside)
    return shutil.which(name)
