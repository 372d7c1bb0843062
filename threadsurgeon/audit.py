"""The audit trail: who made which thread of which process end, when and how, in one entry before each operation and one after.

The entry before is the intent: it stands also where we are killed. One that cannot be written keeps the operation from
beginning; the one after is written whatever happened.
"""

from __future__ import annotations

import json
import logging
import os
import pwd
import signal
import stat
import syslog
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from threadsurgeon._version import __version__
from threadsurgeon.errors import LogUnwritable, ThreadsurgeonError
from threadsurgeon.linux.process import CLOCK_TICKS, read_task
from threadsurgeon.model.operations import Report
from threadsurgeon.surgery.ladder import Policy

logger = logging.getLogger(__name__)

Entry = dict[str, Any]
Journal = Callable[[Entry], None]

SCHEMA = 1
SYSTEM_LOG = Path("/dev/log")
SYSTEM_LOG_CHARACTERS = 1900  # RFC 3164 promises 1024, rsyslog takes 8096, journald more
NOBODY_LOGGED_IN = 2**32 - 1  # /proc/self/loginuid of what no login started


class Trail:
    """A journal that appends to a file, and tells the system log where there is one."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """Open the file, which is made for its owner only; nothing is written yet.

        Raises:
            LogUnwritable: it cannot be written to, or is not a file.
        """
        self._path = path
        self._descriptor: int | None = None
        if path is None:
            return
        # Not through a link that somebody else may have put there; and a pipe that nobody reads is not waited for.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self._descriptor = os.open(path, flags, 0o600)
        except (OSError, ValueError) as error:
            raise self._unwritable(getattr(error, "strerror", None) or str(error)) from None
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            self.close()
            raise self._unwritable("it is not a regular file")

    def __call__(self, entry: Entry) -> None:
        """Write one entry, as one line, in one go.

        Raises:
            LogUnwritable: the file could not be written to.
        """
        if self._descriptor is not None:
            line = json.dumps(entry).encode() + b"\n"
            try:
                written = os.write(self._descriptor, line)
            except OSError as error:
                raise self._unwritable(error.strerror or str(error)) from None
            if written != len(line):
                raise self._unwritable("no space is left")
        if SYSTEM_LOG.exists():
            syslog.openlog("threadsurgeon", syslog.LOG_PID, syslog.LOG_AUTHPRIV)
            syslog.syslog(syslog.LOG_NOTICE, _shorten(entry))

    def close(self) -> None:
        """Close the file; safe to call again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _unwritable(self, reason: str) -> LogUnwritable:
        return LogUnwritable(
            f"the log {os.fspath(self._path or '')!r} cannot be written to: {reason}",
            hint="nothing was touched; choose another file with --log FILE or THREADSURGEON_LOG",
        )


class Record:
    """What is written of one operation. A context manager: leaving it writes what came of it, whichever way it is left."""

    def __init__(self, journal: Journal | None, command: str, asked: str, policy: Policy) -> None:
        self._journal = journal
        self._began = time.monotonic()
        options = {key: value for key, value in asdict(policy).items() if key != "confirm"}
        self._facts: Entry = {"command": command, "asked": asked, "options": options, "process": None, "thread": None}
        self._head: Entry = {"schema": SCHEMA, "operation": os.urandom(6).hex(), "version": __version__}
        self.debugger: str | None = None
        self.report: Report | None = None

    def begin(self, pid: int, tid: int) -> None:
        """Write the intent: from here on the thread may be touched.

        Raises:
            LogUnwritable: it could not be written.
            NoSuchThread: the thread ended.
        """
        if self._journal is not None:
            self._facts |= {"process": describe_process(pid), "thread": describe_task(pid, tid)}
            self._journal(self._entry("intent"))

    def __enter__(self) -> Record:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._journal is None or isinstance(error, LogUnwritable):
            return
        try:
            self._journal(self._entry("result") | self._describe_result(error))
        except ThreadsurgeonError as failure:  # what was done is done: that it was, is what our caller must learn
            logger.error("what was done could not be logged: %s", failure)

    def _entry(self, event: str) -> Entry:
        now = datetime.now(timezone.utc)
        return {**self._head, "event": event, "time": _format_time(now), "who": describe_us(), **self._facts}

    def _describe_result(self, error: BaseException | None) -> Entry:
        report = self.report
        result: Entry = {
            "seconds": round(time.monotonic() - self._began, 4),
            "debugger": self.debugger,
            "outcome": None,
            "error": None if error is None else _describe_error(error),
        }
        if report is not None:
            result |= {
                "outcome": report.outcome.value,
                "technique": report.technique,
                "attempts": [f"{attempt.technique}: {attempt.outcome}" for attempt in report.attempts],
                "exception": report.exception,
                "name": report.name,
                "stopped_seconds": report.stopped_seconds,
                "process_alive": report.process_alive,
                "detail": report.detail,
                "stack_before": [str(frame) for frame in report.stack_before],
            }
        return result


def describe_us() -> Entry:
    """Return who operates: the user now and at login, the one behind sudo, our process, terminal and machine."""
    try:
        login = int(Path("/proc/self/loginuid").read_text())  # stays the same through su and sudo
    except (OSError, ValueError):
        login = NOBODY_LOGGED_IN
    return {
        "uid": os.getuid(),
        "effective_uid": os.geteuid(),
        "user": _name_user(os.getuid()),
        "login_user": None if login == NOBODY_LOGGED_IN else _name_user(login),
        "sudo_user": os.environ.get("SUDO_USER"),
        "pid": os.getpid(),
        "terminal": _find_terminal(),
        "host": os.uname().nodename,
    }


def describe_process(pid: int) -> Entry:
    """Return which process it is: also when its PID means another one later.

    Raises:
        NoSuchThread: it ended.
    """
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        words = []
    return {"pid": pid, **_describe_start(pid, pid), "command_line": [os.fsdecode(word) for word in words]}


def describe_task(pid: int, tid: int) -> Entry:
    """Return which thread it is; errors as ``describe_process``."""
    return {"tid": tid, **_describe_start(pid, tid)}


def _describe_start(pid: int, tid: int) -> Entry:
    task = read_task(pid, tid)
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - task.start_time / CLOCK_TICKS
    started = datetime.fromtimestamp(time.time() - age, timezone.utc)
    return {"name": task.native_name, "start_time": task.start_time, "started": _format_time(started)}


def _describe_error(error: BaseException) -> Entry:
    if isinstance(error, KeyboardInterrupt):
        return {"type": "Interrupted", "message": "by SIGINT"}
    if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > 128:
        return {"type": "Interrupted", "message": f"by {signal.Signals(error.code - 128).name}"}
    return {"type": type(error).__name__, "message": str(error)}


def _format_time(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _name_user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _find_terminal() -> str | None:
    for descriptor in (0, 2, 1):
        try:
            return os.ttyname(descriptor)
        except OSError:
            continue
    return None


def _shorten(entry: Entry) -> str:
    """Return an entry as text for the system log: JSON, without what is long, which only the file has."""
    brief = {key: value for key, value in entry.items() if key != "stack_before"}
    text = json.dumps(brief)
    if len(text) > SYSTEM_LOG_CHARACTERS and brief.get("process"):
        text = json.dumps(brief | {"process": {**brief["process"], "command_line": "(too long)"}})
    return text[:SYSTEM_LOG_CHARACTERS]
