"""Who has the other end of a pipe: found by looking for the same pipe among the descriptors of other processes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from threadsurgeon.linux.process import describe_process

# A machine may have millions of descriptors: this many are looked at, those of close relatives first.
MAX_DESCRIPTORS = 5_000
# More than this many processes are counted, not named.
NAMED = 3


class PipeEnds:
    """The pipes that some processes have open, read when first asked for, and once."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._holders: dict[tuple[str, bool], list[int]] | None = None

    def describe_other_end(self, link: str, *, writing: bool) -> str | None:
        """Say who has the end that the given one is connected to; None where nobody was found.

        ``link`` is what ``/proc/PID/fd/N`` leads to, ``writing`` says which end that is.
        """
        if self._holders is None:
            self._holders = _find_holders(self._pid)
        holders = self._holders.get((link, not writing), [])
        others = [pid for pid in holders if pid != self._pid]
        names = ["this process"] if self._pid in holders else []
        names += [name for name in map(describe_process, others[:NAMED]) if name]
        if len(others) > NAMED:
            names.append(f"{len(others) - NAMED} more")
        return " and ".join(names) if names else None


def _find_holders(pid: int) -> dict[tuple[str, bool], list[int]]:
    """Return the processes that can read from (False) or write to (True) each pipe."""
    holders: dict[tuple[str, bool], list[int]] = {}
    left = MAX_DESCRIPTORS
    for other in _list_processes(pid):
        folder = f"/proc/{other}/fd"
        try:
            names = os.listdir(folder)
        except OSError:  # ended, or another user's
            continue
        for name in names:
            left -= 1
            if left < 0:
                return holders
            path = f"{folder}/{name}"
            try:
                link = os.readlink(path)
                if not link.startswith("pipe:"):
                    continue
                mode = os.lstat(path).st_mode
            except OSError:
                continue
            # The permissions of the link are those of the descriptor: proc_pid_fd(5).
            for writing, bit in ((False, stat.S_IRUSR), (True, stat.S_IWUSR)):
                known = holders.setdefault((link, writing), [])
                if mode & bit and other not in known:
                    known.append(other)
    return holders


def _list_processes(pid: int) -> Iterator[int]:
    """Yield the process itself, then those that were started after it (its children among them), then the others."""
    yield pid
    try:
        pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    except OSError:
        return
    yield from (other for other in pids if other > pid)
    yield from (other for other in reversed(pids) if other < pid)
