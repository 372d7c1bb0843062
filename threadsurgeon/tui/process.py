"""What the live view can do with its process: look, plan, and start an operation."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock

import threadsurgeon
from threadsurgeon.errors import NoSuchThread
from threadsurgeon.inventory import Target
from threadsurgeon.locks.naming import name_locks
from threadsurgeon.model.locks import WaitGraph
from threadsurgeon.model.operations import Plan
from threadsurgeon.model.threads import Listing, Thread


class Process:
    """One process, looked at again and again by one ``Target``, so that nothing is searched for twice.

    Raises:
        ThreadsurgeonError: it cannot be looked at.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._target = Target(pid)
        self._one_at_a_time = Lock()  # its reads share a buffer, and views look in threads of their own
        self._names_locks = False

    def list_threads(self) -> Listing:
        """Return every thread; errors as ``threadsurgeon.list_threads``."""
        with self._one_at_a_time:
            listing = self._target.list_threads()
            self._names_locks = len(listing.threads) <= threadsurgeon.MAX_NAMED_LOCKS
            return listing._replace(threads=name_locks(self._target, listing.threads)) if self._names_locks else listing

    def sample_gil(self) -> list[int]:
        """Return who holds a GIL at this moment, as TIDs that the process itself sees."""
        with self._one_at_a_time:
            return self._target.sample_gil()

    def find_locks(self) -> WaitGraph:
        """Return who waits for whom; errors as ``threadsurgeon.find_locks``."""
        return threadsurgeon.find_locks(self.pid)

    def see(self, thread: Thread) -> Thread:
        """Return one Python thread as it is now.

        Raises:
            NoSuchThread: it ended, also where its TID belongs to another thread by now.
        """
        with self._one_at_a_time:
            now = self._target.see(thread.tid).thread
            if now.start_time != thread.start_time:
                raise NoSuchThread(f"thread {thread.tid} has ended")
            return name_locks(self._target, [now])[0] if self._names_locks else now

    def plan(self, command: str, thread: Thread, flags: Sequence[str]) -> Plan:
        """Say what an operation would do; errors as ``threadsurgeon.plan``."""
        return threadsurgeon.plan(
            thread.tid,
            pid=self.pid,
            climb=command == "kill",
            main="--main" in flags,
            force="--force" in flags,
            in_import="--in-import" in flags,
        )

    def start(self, command: str, thread: Thread, flags: Sequence[str]) -> Operation:
        """Start ``cancel`` or ``kill``; the harder rungs are agreed to.

        Raises:
            NoSuchThread: it ended, also where its TID belongs to another thread by now.
        """
        if thread.python:
            self.see(thread)
        agreed = ["--yes"] if command == "kill" else []
        return Operation(["-v", command, str(thread.tid), "--pid", str(self.pid), *agreed, *flags])


class Operation:
    """A ``threadsurgeon`` command in a process of its own: a view that crashes or is closed cannot harm it.

    It says on standard error what it does, and on standard output what was seen. SIGTERM makes it let go and end.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        # Run as a module Python looks for it in the working directory first: not in one that anybody may have filled.
        package = str(Path(threadsurgeon.__file__).parents[1])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "NO_COLOR": "1"}
        if journal := os.environ.get("THREADSURGEON_LOG"):
            environment["THREADSURGEON_LOG"] = os.path.abspath(journal)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "threadsurgeon", *arguments],
            cwd="/",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def lines(self) -> Iterator[str]:
        """Yield what it says, as it says it, until it is over."""
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                yield line.rstrip("\n")
        self._process.wait()

    @property
    def exit_status(self) -> int:
        """The command's exit status, once it is over."""
        return self._process.wait()

    def stop(self) -> None:
        """Ask it to let go of the thread and end."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
