"""Which thread a person means: a TID, or with a PID also a Python ident or a name."""

from __future__ import annotations

import re

from threadsurgeon.errors import AmbiguousThread, NoSuchThread
from threadsurgeon.inventory import Target
from threadsurgeon.linux.process import find_process, list_tids


def select_thread(pid: int | None, designation: str) -> tuple[int, int]:
    """Return (PID, TID) of the thread that a person means: a TID, or with ``pid`` also a Python ident or a name.

    Raises:
        NoSuchThread: there is none.
        AmbiguousThread: more than one has that name.
    """
    number = int(designation, 0) if re.fullmatch(r"\d+|0[xX][0-9a-fA-F]+", designation) else None
    if pid is None:
        if number is None:
            raise NoSuchThread(
                f"{designation!r} is not a TID", hint="with a name or an ident, say which process: --pid PID"
            )
        return find_process(number), number
    if number in list_tids(pid):
        assert number is not None
        return pid, number
    threads = Target(pid).list_threads().threads
    matches = [thread for thread in threads if thread.ident == number or thread.name == designation]
    if len(matches) == 1:
        return pid, matches[0].tid
    if not matches:
        raise NoSuchThread(
            f"process {pid} has no thread with the TID, ident or name {designation!r}", hint=f"threadsurgeon list {pid}"
        )
    tids = ", ".join(str(thread.tid) for thread in matches[:10])
    raise AmbiguousThread(f"{len(matches)} threads of process {pid} are named {designation!r}", hint=f"choose one: {tids}")
