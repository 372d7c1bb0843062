"""Whoever is killed, and whenever: the target lives on, untraced, not stopped, with no breakpoint left in its thread."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from threadsurgeon.cpython.layout import find_layout
from threadsurgeon.debugger.session import Session
from threadsurgeon.errors import DebuggerDied, NoSuchProcess, NoSuchThread, ThreadsurgeonError
from threadsurgeon.linux.memory import ProcessMemory
from threadsurgeon.linux.process import read_status, read_task
from threadsurgeon.surgery.async_exception import raise_async, withdraw
from threadsurgeon.surgery.interrupt import interrupt
from threadsurgeon.surgery.technique import Effect, Victim

ROUNDS = 8
ATTACHES = 20

# The thread runs bytecode and never checks for signals unless told to: armed, it stays armed.
PROGRAM = """
import ctypes, json, signal, struct, sys, threading, time
api = ctypes.pythonapi
api.PyThreadState_Get.restype = ctypes.c_void_p
names = "PyErr_SetNone PyErr_CheckSignals Py_MakePendingCalls _PyEval_MakePendingCalls".split()
functions = {n: ctypes.cast(getattr(api, n), ctypes.c_void_p).value for n in names if hasattr(api, n)}
signal.signal(signal.SIGCHLD, lambda *_: None)
orders, facts, ready, answered = [], {}, threading.Event(), threading.Event()

def be_signalled():  # this very thread, every 50 us: struct sigevent with SIGEV_THREAD_ID, struct itimerspec
    libc, timer = ctypes.CDLL(None), ctypes.c_void_p()
    libc.timer_create(time.CLOCK_MONOTONIC, struct.pack("qiii44x", 0, signal.SIGCHLD, 4, threading.get_native_id()),
                      ctypes.byref(timer))
    libc.timer_settime(timer, 0, struct.pack("qqqq", 0, 50_000, 0, 50_000), None)

def work():
    facts.update(tid=threading.get_native_id(), ident=threading.get_ident(), thread_state=api.PyThreadState_Get(),
                 exception=id(SystemExit), functions=functions)
    ready.set()
    while True:
        if orders:
            order = orders.pop()
            if order == "end":
                return
            if order == "hold out":
                be_signalled()
                while True:
                    try:
                        while True:  # its way back to the sleep is outside of the inner try
                            try:
                                time.sleep(1000)
                            except BaseException:
                                pass
                    except BaseException:
                        pass
            if order == "sleep":
                time.sleep(1000)
            for _ in range(1000):
                api.PyErr_CheckSignals()
                api.Py_MakePendingCalls()
            answered.set()

threading.Thread(target=work, daemon=True).start()
ready.wait()
print(json.dumps(facts), flush=True)
for line in sys.stdin:
    if line == "quit\\n":
        sys.exit(0)
    orders.append(line.strip())
    if line == "check\\n":
        answered.wait(20)
        print("checked" if answered.is_set() else "no answer", flush=True)
        answered.clear()
"""


class Target:
    """A process with one thread to operate on."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        facts = json.loads(self.read())
        self.pid, self.tid = self.process.pid, facts["tid"]
        layout = find_layout(sys.version_info[:2], debug=hasattr(sys, "gettotalrefcount"), free_threaded=False)
        assert layout is not None
        offsets, state = layout.thread_state, facts["thread_state"]
        if offsets.eval_breaker is not None:
            flags: tuple[tuple[int, int, int], ...] = ((state + offsets.eval_breaker, 1, 8),)
        else:
            where = layout.interpreter_state
            interpreter = int.from_bytes(ProcessMemory(self.pid).read(state + offsets.interp, 8), "little")
            assert where.ceval_eval_breaker is not None
            assert where.ceval_pending_async_exc is not None
            flags = tuple((interpreter + n, 4, 1) for n in (where.ceval_eval_breaker, where.ceval_pending_async_exc))
        self.victim = Victim(
            pid=self.pid,
            tid=self.tid,
            start_time=read_task(self.pid, self.tid).start_time,
            thread_state=state,
            thread_id_address=state + offsets.thread_id,
            ident=facts["ident"],
            async_exc_address=state + offsets.async_exc,
            flags=flags,
            eval_breaker_sources=(),
            exception=facts["exception"],
            exception_refcnt_address=None if sys.version_info >= (3, 12) else facts["exception"],
            functions=facts["functions"],
        )

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def tell(self, order: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(order + "\n")

    def wait_until_free(self) -> None:
        deadline = time.monotonic() + 5
        while True:
            status = read_status(self.tid)
            if status.tracer == 0 and status.state not in "Tt":
                return
            assert time.monotonic() < deadline, f"thread left behind: {status}"
            time.sleep(0.005)

    def assert_unharmed(self) -> None:
        """The thread passes every function that may have had a breakpoint, and the process ends as it should."""
        self.wait_until_free()
        self.tell("check")
        assert self.read() == "checked\n"
        self.tell("quit")
        assert self.process.wait(20) == 0


@pytest.fixture
def target() -> Iterator[Target]:
    target = Target()
    yield target
    for stream in (target.process.stdin, target.process.stdout):
        assert stream is not None
        stream.close()
    target.process.kill()
    target.process.wait()


def wait_until_armed(target: Target) -> None:
    """The thread is traced, and not stopped: it runs towards the breakpoints."""
    deadline = time.monotonic() + 10
    armed_at = None
    while armed_at is None or time.monotonic() < armed_at + 0.05:
        assert time.monotonic() < deadline
        armed_at = armed_at or (time.monotonic() if read_status(target.tid).tracer else None)
        time.sleep(0.001)


def kill_when_armed(target: Target, pid: int) -> threading.Thread:
    def run() -> None:
        wait_until_armed(target)
        os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def operate_elsewhere(target: Target) -> subprocess.Popen[str]:
    """A process of its own that interrupts the target's thread, as our command does."""
    arguments = dataclasses.asdict(target.victim)
    program = (
        "import json, sys\n"
        "from threadsurgeon.debugger.session import Session\n"
        "from threadsurgeon.surgery.interrupt import interrupt\n"
        "from threadsurgeon.surgery.technique import Victim\n"
        "victim = Victim(**json.loads(sys.argv[1]))\n"
        "with Session.start() as session:\n"
        "    print(session.pid, flush=True)\n"
        "    interrupt(session, victim, 20)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, json.dumps(arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def test_gdb_is_killed_while_armed(target: Target) -> None:
    """Debug registers are cleared at once, and the error says that gdb died."""
    with Session.start() as session:
        killer = kill_when_armed(target, session.pid)
        with pytest.raises(DebuggerDied):
            interrupt(session, target.victim, 20)
        killer.join()

    target.assert_unharmed()


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_gdb_is_killed_at_any_moment(target: Target, seed: int) -> None:
    """From its start to its end."""
    delay = random.Random(seed).uniform(0.0, 0.3)
    with Session.start() as session:
        timer = threading.Timer(delay, os.kill, (session.pid, signal.SIGKILL))
        timer.start()
        with pytest.raises(ThreadsurgeonError):
            interrupt(session, target.victim, 20)
        timer.join()

    target.assert_unharmed()


def test_we_are_killed_while_armed(target: Target) -> None:
    """Gdb sees the end of its input, takes the breakpoints out and detaches."""
    with operate_elsewhere(target) as ours:
        assert ours.stdout is not None
        gdb = int(ours.stdout.readline())
        wait_until_armed(target)
        ours.kill()

    target.assert_unharmed()
    assert_gone(gdb)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_we_are_killed_at_any_moment(target: Target, seed: int) -> None:
    """Counted from the start of gdb."""
    with operate_elsewhere(target) as ours:
        assert ours.stdout is not None
        gdb = int(ours.stdout.readline())
        time.sleep(random.Random(seed).uniform(0.0, 0.3))
        ours.kill()

    assert_gone(gdb)
    target.assert_unharmed()


def assert_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            if read_status(pid).state in "ZX":
                return
        except NoSuchProcess:
            return
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.01)


def test_target_is_killed_while_armed(target: Target) -> None:
    """That is an ordinary ending, not a hang."""
    with Session.start() as session:
        killer = kill_when_armed(target, target.pid)
        with pytest.raises((NoSuchProcess, NoSuchThread)):
            interrupt(session, target.victim, 20)
        killer.join()


def test_thread_ends_by_itself_while_armed(target: Target) -> None:
    """The process is not harmed, and the thread is reported as gone."""

    def end() -> None:
        wait_until_armed(target)
        target.tell("end")

    with Session.start() as session:
        ender = threading.Thread(target=end)
        ender.start()
        with pytest.raises(NoSuchThread):
            interrupt(session, target.victim, 20)
        ender.join()

    target.tell("quit")
    assert target.process.wait(20) == 0


def test_keyboard_interrupt_while_armed(target: Target) -> None:
    """Gdb lets go before the exception reaches the caller."""

    def press() -> None:
        wait_until_armed(target)
        signal.pthread_kill(main, signal.SIGINT)

    main = threading.main_thread().ident
    assert main is not None
    presser = threading.Thread(target=press)
    with Session.start() as session:
        presser.start()
        with pytest.raises(KeyboardInterrupt):
            interrupt(session, target.victim, 20)
        presser.join()

    target.assert_unharmed()


def test_no_check_in_time(target: Target) -> None:
    """The thread runs on as if nothing had been."""
    with Session.start() as session:
        applied = interrupt(session, target.victim, 0.2)

    assert applied.effect is Effect.NO_CHECK
    assert 0.19 < applied.armed_seconds < 2
    target.assert_unharmed()


def test_withdrawn_exception_is_not_raised(target: Target) -> None:
    """A thread that sleeps does not look; what was set is taken back before it does."""
    target.tell("sleep")
    while read_task(target.pid, target.tid).state != "S":
        time.sleep(0.001)
    with Session.start() as session:
        first = raise_async(session, target.victim)
        second = raise_async(session, target.victim)

        assert (first.effect, first.previous) == (Effect.SET, 0)
        assert second.previous == target.victim.exception
        assert withdraw(session, target.victim)
        assert not withdraw(session, target.victim)

        applied = interrupt(session, target.victim, 5)

    assert (applied.effect, applied.in_system_call, applied.hit) == (Effect.RAISED, True, "PyErr_CheckSignals")
    target.tell("quit")
    assert target.process.wait(20) == 0


def test_signals_come_before_the_stop(target: Target) -> None:
    """A thread that was at a breakpoint once, and that has signals on their way whenever it is attached to."""
    target.tell("hold out")
    while read_task(target.pid, target.tid).state != "S":
        time.sleep(0.001)
    with Session.start() as session:
        applied = interrupt(session, target.victim, 5)
        for _ in range(ATTACHES):
            raise_async(session, target.victim)
            withdraw(session, target.victim)

    assert applied.effect is Effect.RAISED
    target.wait_until_free()
    target.tell("quit")
    assert target.process.wait(20) == 0


def test_another_thread_is_not_touched(target: Target) -> None:
    """A TID that means another thread by now is recognised by its start time."""
    stale = dataclasses.replace(target.victim, start_time=target.victim.start_time + 1)
    with Session.start() as session, pytest.raises(NoSuchThread):
        interrupt(session, stale, 5)

    target.assert_unharmed()
