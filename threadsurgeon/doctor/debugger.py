"""gdb, and what it takes of a machine, tried for real on a child of ours: attach, a hardware breakpoint, reading memory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from threadsurgeon.debugger.mi import GdbError
from threadsurgeon.debugger.session import Session
from threadsurgeon.errors import DebuggerError, ThreadsurgeonError
from threadsurgeon.linux.memory import BadAddress, ProcessMemory
from threadsurgeon.linux.permission import find_obstacle
from threadsurgeon.linux.privileges import read_text
from threadsurgeon.linux.process import read_system_call
from threadsurgeon.model.diagnosis import Check, CheckStatus

OK, WARNING, FAILED, SKIPPED = CheckStatus.OK, CheckStatus.WARNING, CheckStatus.FAILED, CheckStatus.SKIPPED
TRIAL_SECONDS = 2.0
READ = 0  # the system call, on x86-64
NEWEST_TRIED = 18
BREAKPOINT_REMEDY = (
    "operate from where the processor's debug registers are to be had: not in gVisor, nor in a virtual machine without them"
)


def report_missing_debugger(error: DebuggerError) -> Iterator[Check]:
    """Say that there is no usable gdb, and try what needs none."""
    yield Check("gdb", FAILED, str(error), error.hint)
    yield Check("attach", SKIPPED, "not tried: no usable gdb")
    yield Check("breakpoint", SKIPPED, "not tried: no usable gdb")
    with _child() as pid:
        yield _check_reading(pid)


def check_debugger(session: Session) -> Iterator[Check]:
    """Look which gdb it is, and what it can do here."""
    try:
        session.wait_until_ready()
    except DebuggerError as error:
        yield from report_missing_debugger(error)
        return
    yield _check_version(session)
    with _child() as pid:
        yield from _check_tracing(session, pid)
        yield _check_reading(pid)


def _check_version(session: Session) -> Check:
    value = f"gdb {session.version}, with Python, {os.readlink(f'/proc/{session.pid}/exe')}"
    number = re.search(r"\d+", session.version)  # "Red Hat Enterprise Linux 10.2-13.el9"
    if number is not None and int(number[0]) > NEWEST_TRIED:
        return Check("gdb", WARNING, f"{value}: newer than any that threadsurgeon was tried with")
    return Check("gdb", OK, value)


def _check_tracing(session: Session, pid: int) -> Iterator[Check]:
    try:
        session.command("-ts-try", {"pid": pid}, timeout_seconds=2 * TRIAL_SECONDS, stays_attached=True)
        session.wait_for_stop(2 * TRIAL_SECONDS)  # or its end
        hit = session.command("-ts-tried", timeout_seconds=2 * TRIAL_SECONDS)["hit"]
    except GdbError as error:
        if "ardware breakpoint" in str(error) or "debug register" in str(error):
            yield Check("attach", OK, "gdb attached to a child of ours")
            yield Check("breakpoint", FAILED, f"gdb: {error}", BREAKPOINT_REMEDY)
            return
        obstacle = find_obstacle(pid)
        yield Check("attach", FAILED, f"gdb may not attach to a child of ours: {error}; {obstacle.cause}", obstacle.remedy)
        yield Check("breakpoint", SKIPPED, "not tried: gdb could not attach")
        return
    except DebuggerError as error:
        yield Check("attach", FAILED, str(error), "threadsurgeon -vv doctor shows the conversation with gdb")
        yield Check("breakpoint", SKIPPED, "not tried: gdb did not answer")
        return
    yield Check("attach", OK, "gdb attached to a child of ours, and let it go")
    if hit:
        yield Check("breakpoint", OK, "a child of ours stopped at a hardware breakpoint")
    else:
        yield Check("breakpoint", FAILED, "a child of ours did not stop at a hardware breakpoint", BREAKPOINT_REMEDY)


def _check_reading(pid: int) -> Check:
    mappings = read_text(f"/proc/{pid}/maps").split()
    if not mappings:
        return Check("read-memory", SKIPPED, "not tried: the child of ours has ended meanwhile")
    start, _, end = mappings[0].partition("-")
    try:
        ProcessMemory(pid).read(int(start, 16), min(4096, int(end, 16) - int(start, 16)))
    except (BadAddress, ThreadsurgeonError) as error:
        obstacle = find_obstacle(pid)
        return Check("read-memory", FAILED, f"{error}; {obstacle.cause}", obstacle.remedy)
    return Check("read-memory", OK, "process_vm_readv reads a child of ours")


@contextmanager
def _child() -> Iterator[int]:
    """Start a process that waits for input; it ends after the block, or if somebody waits for it for too long."""
    command = [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    timer = threading.Timer(TRIAL_SECONDS, child.kill)
    with child:
        try:
            timer.start()
            while child.poll() is None:
                call = read_system_call(child.pid, child.pid)
                if call is not None and call.number == READ and call.arguments[0] == 0:
                    break
                time.sleep(0.0005)
            yield child.pid
        finally:
            timer.cancel()
            child.kill()
