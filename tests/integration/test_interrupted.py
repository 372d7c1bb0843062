"""Whoever ends ``threadsurgeon cancel``, and at whatever moment: the target notices nothing, and no gdb is left behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.integration.command import run
from tests.zoo.pythons import Python
from tests.zoo.victim import Victim, waiting
from threadsurgeon.inventory import Target

Start = Callable[..., Victim]
Cancel = Callable[..., "Cancelling"]

ROOT = Path(__file__).parents[2]
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL]
SEEDS = range(3)

pytestmark = pytest.mark.usefixtures("gdb")


class Cancelling:
    """``threadsurgeon cancel TID`` on a thread that it cannot reach: it waits, with breakpoints set, until it is ended."""

    def __init__(self, victim: Victim) -> None:
        self.victim = victim
        self.mark = f"/nonexistent/{uuid.uuid4()}"  # on PATH, which is all that gdb inherits of an environment
        self.process = subprocess.Popen(
            [sys.executable, "-m", "threadsurgeon", "cancel", str(victim.tid), "--timeout", "100"],
            env={"PATH": f"/usr/bin:/bin:{self.mark}", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def processes(self, name: str = "") -> list[str]:
        """Every living process that we started, by its command line."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip())
            except OSError:
                continue  # it ended, or is none of our business
        return [line for line in found if name in line]

    def wait_for_gdb(self) -> None:
        for _ in waiting("gdb was started"):
            if self.processes("bootstrap.py"):
                return

    def wait_until_armed(self) -> None:
        """The thread is traced, and not stopped."""
        for _ in waiting("the thread is armed"):
            status = Path(f"/proc/{self.victim.pid}/task/{self.victim.tid}/status").read_text()
            if "TracerPid:\t0\n" not in status and "tracing stop" not in status:
                return

    def ends(self) -> tuple[int, str]:
        """Return the exit status, and what was written."""
        output, errors = self.process.communicate(timeout=30)
        return self.process.returncode, output + errors

    def assert_nothing_is_left(self) -> None:
        for _ in waiting(f"nothing is left of what we started: {self.processes()}"):
            if not self.processes():
                return


@pytest.fixture
def cancel() -> Iterator[Cancel]:
    """Start a ``cancel`` that is over when the test is."""

    @contextmanager
    def cancelling(victim: Victim) -> Iterator[Cancelling]:
        ours = Cancelling(victim)
        with ours.process:
            try:
                yield ours
            finally:
                ours.process.kill()

    with ExitStack() as stack:
        yield lambda victim: stack.enter_context(cancelling(victim))


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("behaviour", ["ctypes_wait", "c_sum", "pydll_wait"])
def test_ended_while_the_thread_is_armed(
    behaviour: str, number: signal.Signals, any_python: Python, stuck: Start, cancel: Cancel
) -> None:
    """In foreign code without the GIL; spinning with it; waiting with it, so that the whole process stands still."""
    victim = stuck(any_python, behaviour)
    ours = cancel(victim)
    ours.wait_until_armed()
    ours.process.send_signal(number)
    status, text = ours.ends()

    assert status == (-number if number == signal.SIGKILL else 128 + number), text
    assert "Traceback" not in text
    ours.assert_nothing_is_left()
    assert_unharmed(victim, withdrawn=number != signal.SIGKILL)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_ended_at_any_moment(
    number: signal.Signals, seed: int, any_python: Python, stuck: Start, cancel: Cancel
) -> None:
    """From the start of gdb on, through its warming up and attaching, until long after."""
    victim = stuck(any_python, "ctypes_wait")
    ours = cancel(victim)
    ours.wait_for_gdb()
    time.sleep(random.Random(f"{number}{seed}").uniform(0, 0.2))  # the moment is what is tried
    ours.process.send_signal(number)
    status, text = ours.ends()

    assert status == (-number if number == signal.SIGKILL else 128 + number), text
    assert "Traceback" not in text
    ours.assert_nothing_is_left()
    assert_unharmed(victim, withdrawn=number != signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_impatient_user(number: signal.Signals, any_python: Python, stuck: Start, cancel: Cancel) -> None:
    """The same signal again and again, while we are tidying up, does not keep us from it."""
    victim = stuck(any_python, "ctypes_wait")
    ours = cancel(victim)
    ours.wait_until_armed()
    for _ in waiting("it ends", pause=0.01):
        ours.process.send_signal(number)
        if ours.process.poll() is not None:
            break
    status, _ = ours.ends()

    assert status in (128 + number, -number)
    ours.assert_nothing_is_left()
    assert_unharmed(victim, withdrawn=False)


def test_next_one_works(any_python: Python, stuck: Start, cancel: Cancel) -> None:
    """After one that was killed while armed, the next ``cancel`` finds nothing in its way."""
    victim = stuck(any_python, "threads_1000", ZOO_THREADS="1")
    (other,) = [thread["tid"] for thread in victim.ready["threads"] if thread["name"] == "waiter-0"]
    ours = cancel(victim)
    ours.wait_for_gdb()
    ours.process.kill()
    ours.ends()
    ours.assert_nothing_is_left()
    for tid in {other, *([] if victim.thread_is_gone() else [victim.tid])}:
        result = run("cancel", str(tid))
        assert result.returncode == 0, result.stdout + result.stderr

    victim.assert_lives_on()
    victim.finish()


@pytest.mark.parametrize("ignored", [signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name)
def test_signal_that_is_ignored_stays_ignored(
    ignored: signal.Signals, any_python: Python, stuck: Start, cancel: Cancel
) -> None:
    """``nohup`` means it, and so does a shell that starts us in the background."""
    victim = stuck(any_python, "ctypes_wait")
    before = signal.signal(ignored, signal.SIG_IGN)
    try:
        ours = cancel(victim)
    finally:
        signal.signal(ignored, before)
    ours.wait_until_armed()
    ours.process.send_signal(ignored)
    ours.process.send_signal(signal.SIGTERM)

    assert ours.ends()[0] == 128 + signal.SIGTERM
    ours.assert_nothing_is_left()
    assert_unharmed(victim)


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
@pytest.mark.parametrize("output", ["closed", "broken pipe", "full"])
def test_result_that_nobody_can_read(output: str, options: tuple[str, ...], any_python: Python, stuck: Start) -> None:
    """What was done counts: the exit status says that the thread ended, and there is no traceback."""
    victim = stuck(any_python, "lock")
    status, errors = run_to(output, "cancel", str(victim.tid), *options)

    assert status == 0, errors
    assert "Traceback" not in errors
    assert (errors != "") == (output == "full")
    victim.assert_lives_on()
    victim.finish()


@pytest.mark.parametrize("arguments", [("list",), ("list", "--json"), ("attach",)], ids=" ".join)
@pytest.mark.parametrize("output", ["closed", "broken pipe", "full"])
def test_listing_that_nobody_can_read(output: str, arguments: tuple[str, ...], any_python: Python, stuck: Start) -> None:
    """As in ``threadsurgeon list PID | head -1``: no traceback."""
    victim = stuck(any_python, "lock")
    status, errors = run_to(output, *arguments, str(victim.pid))

    assert status == (0 if output == "closed" else 1)
    assert "Traceback" not in errors
    assert (errors != "") == (output == "full")


def run_to(output: str, *arguments: str) -> tuple[int, str]:
    """Run our command line with a standard output that cannot be written to."""
    words = [sys.executable, "-m", "threadsurgeon", *arguments]
    if output == "closed":
        words = ["/bin/sh", "-c", 'exec "$@" <&- >&-', "sh", *words]
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full" if output == "full" else writer, "wb") as stdout:
        if output == "full":
            os.close(writer)
        result = subprocess.run(
            words,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    return result.returncode, result.stderr


def assert_unharmed(victim: Victim, *, withdrawn: bool = True) -> None:
    """The process goes on, and the thread is where it was, neither traced nor stopped; nothing waits to be raised in it."""
    for _ in waiting(f"{victim} is left alone"):
        if victim.is_traced_or_stopped() == []:
            break
    if not victim.behaviour.freezes:
        assert not victim.assert_lives_on(unwound=False)["finally_ran"]
    victim.wait_until_stuck()
    target = Target(victim.pid)
    offset = target.runtime.layout.thread_state.async_exc
    pending = target.see(victim.tid).state.content[offset : offset + 8] != bytes(8)
    assert not (pending and withdrawn)
