"""Who has a pipe or a socket open: found by looking for it among the descriptors of other processes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from threadsurgeon.linux.process import describe_process, find_parent

# A machine may have millions of descriptors: no more than this many are looked at.
MAX_DESCRIPTORS = 5_000


class Holders:
    """The pipes and sockets that processes have open: one process first, and others no further than it takes."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._holders: dict[tuple[str, bool], int] = {}
        self._unread = _list_processes(pid)
        self._left = MAX_DESCRIPTORS

    def describe_holder(self, link: str, *, writing: bool) -> str | None:
        """Say who can write to it, or read from it; None where nobody was found.

        ``link`` is what ``/proc/PID/fd/N`` leads to: the same for both ends of a pipe.
        """
        wanted = link, writing
        while wanted not in self._holders and self._left > 0:
            other = next(self._unread, None)
            if other is None:
                break
            self._read(other)
        holder = self._holders.get(wanted)
        if holder is None:
            return None
        return "this process" if holder == self._pid else describe_process(holder)

    def _read(self, pid: int) -> None:
        """Note what the process can read from (False) or write to (True)."""
        folder = f"/proc/{pid}/fd"
        try:
            names = os.listdir(folder)
        except OSError:  # ended, or another user's
            return
        self._left -= len(names)
        for name in names:
            path = f"{folder}/{name}"
            try:
                link = os.readlink(path)
                mode = os.lstat(path).st_mode if link.startswith(("pipe:", "socket:")) else 0
            except OSError:
                continue
            # The permissions of the link are those of the descriptor: proc_pid_fd(5).
            if mode & stat.S_IRUSR:
                self._holders.setdefault((link, False), pid)
            if mode & stat.S_IWUSR:
                self._holders.setdefault((link, True), pid)


def _list_processes(pid: int) -> Iterator[int]:
    """Yield the process itself, its parent, those that were started later (its children among them), then the others."""
    yield pid
    parent = find_parent(pid)
    if parent:
        yield parent
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    yield from (other for other in pids if other > pid)
    yield from (other for other in reversed(pids) if other < pid and other != parent)
