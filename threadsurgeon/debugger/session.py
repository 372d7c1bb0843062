"""One gdb, driven through its machine interface: send one command, wait for its answer, never leave a thread in its hands.

gdb starts, and warms up, while our caller looks at the target; the first command waits until it is ready. Every wait
has a deadline, an answer counts only with its command's token, and the end of gdb's output is the end of gdb. Whatever
happens to us, gdb sees its input end, removes its breakpoints and detaches by itself.
"""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from threadsurgeon.debugger.channel import Channel, EndOfOutput
from threadsurgeon.debugger.custody import Custody
from threadsurgeon.debugger.mi import (
    GdbError,
    Stop,
    phrase,
    read_answer,
    read_console,
    read_internal_error,
    read_result,
    read_stop,
)
from threadsurgeon.debugger.startup import INSTALL_HINT, find_gdb, gdb_arguments, start_dummy, start_gdb
from threadsurgeon.errors import DebuggerDied, DebuggerFailed, DebuggerMissing, Refused
from threadsurgeon.linux.priority import CALLER, before_others

logger = logging.getLogger(__name__)

READY_SECONDS = 20.0
# Commands take milliseconds. Whoever has no CAP_SYS_NICE waits for processors, too, and to give up early helps nobody then: it
# is gdb that is to let go of the thread.
COMMAND_SECONDS = 20.0
LEAVE_SECONDS = 3.0
LAST_WORDS_SECONDS = 0.1
POLL_SECONDS = 0.002
VICTIM = 1  # gdb counts the threads it traces afresh at each attach

OLDEST = (10, 0)  # gdb_scripts/bootstrap.py
OLDEST_PYTHON = (3, 9)  # gdb_scripts/__init__.py
_ASK_PYTHON = """-interpreter-exec console "python import sys; print('Python %d.%d' % sys.version_info[:2])\""""

_ABOUT, _WARM_UP = 1, 2  # the tokens of the first two commands, sent before gdb is ready to read them


class Session:
    """A running gdb. Use it as a context manager: on every way out gdb lets go of the target and ends."""

    def __init__(self, process: subprocess.Popen[bytes], dummy: subprocess.Popen[bytes] | None = None) -> None:
        self.version = ""
        self._through_console = False  # gdb before 12 has no MI commands in Python
        self._process = process
        self._dummy = dummy
        self._channel = Channel(process)
        self._stops: deque[Stop] = deque()
        self._said = ""  # on its console, since the last command
        self._complaint = ""  # of an error within gdb itself, after which it ends
        self._ready = False
        self._alive = True
        self._token = _WARM_UP
        self._custody: Custody | None = None

    @classmethod
    def start(cls, arguments: Sequence[str] | None = None) -> Session:
        """Start gdb and return at once; it is ready when the first command returns.

        Raises:
            DebuggerMissing: there is no gdb to start.
        """
        process = start_gdb(gdb_arguments(find_gdb()) if arguments is None else list(arguments))
        dummy = start_dummy()
        session = cls(process, dummy)
        try:
            session._send(_ABOUT, session._phrase("-ts-about"))
            if dummy is not None:
                session._send(_WARM_UP, session._phrase("-ts-warm-up", {"pid": dummy.pid}))
        except DebuggerDied:
            pass  # the first command will find out, and say why
        return session

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """gdb's own process id."""
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Wait until gdb has started and warmed up. Commands do so by themselves.

        Raises:
            DebuggerMissing: this gdb is too old, or was built without Python.
            DebuggerFailed: it did not get ready in time.
        """
        if self._ready:
            return
        deadline = time.monotonic() + READY_SECONDS
        try:
            try:
                about = self._await_result(_ABOUT, deadline)
            except GdbError as error:
                about = self._ask_console(str(error), deadline)
            if self._dummy is not None:
                try:
                    if self._through_console:
                        self._exchange(self._phrase("-ts-warm-up", {"pid": self._dummy.pid}), deadline - time.monotonic())
                    else:
                        self._await_result(_WARM_UP, deadline)
                except GdbError as error:
                    logger.debug("no warm-up: %s", error)  # as under yama: only slower
        except DebuggerDied:
            why = f": {self._complaint}" if self._complaint else ""
            raise DebuggerMissing(f"gdb ended as soon as it was started{why}", hint=INSTALL_HINT) from None
        finally:
            self._end_dummy()
        self.version = str(about.get("gdb", ""))
        self._ready = True

    def _ask_console(self, complaint: str, deadline: float) -> dict[str, Any]:
        """Ask a gdb that does not know our MI commands whether it knows them on its console."""
        try:
            if "ndefined MI command" not in complaint:
                raise GdbError(complaint)
            self._through_console = True
            return self._exchange(self._phrase("-ts-about"), deadline - time.monotonic())
        except GdbError as error:
            raise self._unusable(str(error), deadline) from None

    def _unusable(self, complaint: str, deadline: float) -> DebuggerMissing:
        """Say what is wrong with a gdb that does not know our commands."""
        name, problem = "gdb", f"cannot load our commands: {complaint}"
        if "ndefined command" in complaint:
            said = self._ask("-gdb-version", deadline) + self._ask(_ASK_PYTHON, deadline)
            gdb = re.search(r"^GNU gdb .*?(\d+)\.(\d+)[^ ]*$", said, re.MULTILINE)
            python = re.search(r"^Python (\d+)\.(\d+)$", said, re.MULTILINE)
            name = f"gdb {gdb[1]}.{gdb[2]}" if gdb else "this gdb"
            if gdb and (int(gdb[1]), int(gdb[2])) < OLDEST:
                problem = "is too old"
            elif python is None:
                problem = "was built without Python"
            elif (int(python[1]), int(python[2])) < OLDEST_PYTHON:
                problem = f"was built with Python {python[1]}.{python[2]}, which is too old"
        return DebuggerMissing(f"{name} {problem}", hint=INSTALL_HINT)

    def _ask(self, text: str, deadline: float) -> str:
        """Return what gdb prints on its console in answer to one of its own commands, even to one that fails."""
        try:
            self._exchange(text, deadline - time.monotonic())
        except GdbError:
            pass
        return self._said

    def command(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        *,
        timeout_seconds: float = COMMAND_SECONDS,
        stays_attached: bool = False,
    ) -> dict[str, Any]:
        """Send one command and return its answer: the object in ``json`` for ours, gdb's fields for others.

        Raises:
            GdbError: gdb answered with an error.
            DebuggerFailed: it did not answer in time, and is gone now; or not in its language.
            DebuggerDied: it ended.
        """
        self.wait_until_ready()
        custody = self._custody
        if custody is not None:
            custody.held = True
            custody.armed = custody.armed or stays_attached
        try:
            reply = self._exchange(self._phrase(name, arguments), timeout_seconds)
        except GdbError:  # our commands undo everything when they fail; after any other error gdb may still hold the thread
            if custody is not None:
                custody.held = custody.armed = False
            raise
        if custody is not None:
            custody.held = custody.armed = stays_attached
        if stays_attached:
            self._stops.clear()  # whatever stopped before the answer is past: the thread goes on after it
        return reply

    def _phrase(self, name: str, arguments: dict[str, Any] | None = None) -> str:
        return phrase(name, arguments, through_console=self._through_console)

    def _exchange(self, text: str, timeout_seconds: float) -> dict[str, Any]:
        self._token += 1
        self._send(self._token, text)
        return self._await_result(self._token, time.monotonic() + timeout_seconds)

    @contextmanager
    def custody(self, pid: int, tid: int) -> Iterator[None]:
        """While this block lasts, commands may attach to the thread; after it, the thread is free, whatever happened.

        Every command sent in it attaches and detaches within itself, unless it says ``stays_attached``.

        Raises:
            Refused: the main thread, which cannot be traced without all others.
            TargetBusy: another tracer has the thread.
        """
        if pid == tid:
            raise Refused(f"thread {tid} is the main thread: tracing it would stop the whole process")
        self.wait_until_ready()
        custody = self._custody = Custody(pid, tid)
        # Stopped by Ctrl-Z we could not watch over a thread that waits for us.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
        try:
            with before_others(self._process.pid, CALLER):
                try:
                    yield
                finally:
                    if custody.held:
                        self._leave()
                    custody.check_released()
        finally:
            self._custody = None
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def wait_for_stop(self, timeout_seconds: float, *, until: Callable[[], bool] | None = None) -> Stop | None:
        """Wait until the traced thread stops or ends; None when the time is over, or ``until`` says so.

        Raises:
            DebuggerDied: gdb ended. The debug registers of the thread are clear then.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            while self._stops:
                stop = self._stops.popleft()
                if stop.thread_ended or stop.thread == VICTIM:
                    return stop
            now = time.monotonic()
            if now >= deadline:
                return None
            if until is not None:
                if until():
                    return None
                deadline_step = min(deadline, now + POLL_SECONDS)
            else:
                deadline_step = deadline
            try:
                self._handle(self._read_line(deadline_step))
            except TimeoutError:
                continue

    def interrupt(self) -> Stop:
        """Stop the running thread, and only it.

        Raises:
            DebuggerFailed: it did not stop in time, as in an uninterruptible wait.
        """
        try:
            self._exchange(f"-exec-interrupt --thread {VICTIM}", COMMAND_SECONDS)
        except GdbError as error:
            logger.debug("not interrupted: %s", error)  # it has stopped or ended just now
        stop = self.wait_for_stop(COMMAND_SECONDS)
        if stop is None:
            raise DebuggerFailed(f"the thread did not stop in {COMMAND_SECONDS} s")
        return stop

    def close(self) -> None:
        """Make gdb let go and end. Never raises because of gdb; safe to call again."""
        self._end_dummy()
        if self._ready and self._custody is None:
            # It is attached to nothing: killing it harms nobody, and saves the time of an orderly end.
            self._process.kill()
        self._leave()

    def _leave(self) -> None:
        """End gdb by ending its input, upon which it detaches; by force only if it does not listen."""
        self._alive = False
        self._channel.end_input()
        # Killing it is harmless unless breakpoints are set.
        armed = self._custody is not None and self._custody.armed
        try:
            self._process.wait(COMMAND_SECONDS if armed else LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            logger.warning("gdb does not end by itself: killing it")
            self._process.kill()
            self._process.wait()
            if self._custody is not None:
                self._custody.debugger_died()
        self._channel.close()
        if self._custody is not None:
            if self._process.returncode != 0:
                self._custody.debugger_died()
            self._custody.held = self._custody.armed = False

    def _end_dummy(self) -> None:
        if self._dummy is not None:
            dummy, self._dummy = self._dummy, None
            assert dummy.stdin is not None
            dummy.stdin.close()
            dummy.kill()
            dummy.wait()

    def _send(self, token: int, text: str) -> None:
        if not self._alive:
            raise DebuggerDied("gdb has ended")
        try:
            self._channel.send(f"{token}{text}")
        except EndOfOutput:
            raise self._died() from None

    def _await_result(self, token: int, deadline: float) -> dict[str, Any]:
        self._said = ""
        while True:
            try:
                line = self._read_line(deadline)
            except TimeoutError:
                self._leave()
                raise DebuggerFailed("gdb did not answer in time") from None
            result = read_result(line)
            if result is not None and result.token == token:
                if result.kind == "running":
                    self._stops.clear()  # whatever stopped before is past
                return read_answer(line, self._said if self._through_console else "")
            self._handle(line)
            self._said += read_console(line)

    def _handle(self, line: str) -> None:
        """Keep a stop for whoever waits for one, and a complaint; all else that gdb says unasked is only for the log."""
        if stop := read_stop(line):
            self._stops.append(stop)
        self._complaint = read_internal_error(line) or self._complaint

    def _read_line(self, deadline: float) -> str:
        """Return the next complete line.

        Raises:
            TimeoutError: there was none in time.
            DebuggerDied: gdb ended.
        """
        try:
            return self._channel.read_line(deadline)
        except EndOfOutput:
            raise self._died() from None
        except DebuggerFailed:
            self._leave()
            raise

    def _died(self) -> DebuggerDied:
        if not self._alive:
            return DebuggerDied("gdb has ended")
        # First of all the victim: until its debug registers are clear, each of its steps may be the last of its process.
        if self._custody is not None:
            self._custody.debugger_died()
        self._hear_out()
        self._leave()
        why = f": {self._complaint}" if self._complaint else ""
        return DebuggerDied(f"gdb ended while we used it (exit status {self._process.returncode}){why}")

    def _hear_out(self) -> None:
        """Read what gdb said before it ended."""
        deadline = time.monotonic() + LAST_WORDS_SECONDS
        try:
            while True:
                self._handle(self._channel.read_line(deadline))
        except (TimeoutError, EndOfOutput, DebuggerFailed):
            pass
