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
    number = _read_number(designation)
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
    # A native thread has neither: no number is not the ident of all those.
    matches = [t for t in threads if (number is not None and t.ident == number) or t.name == designation]
    if len(matches) == 1:
        return pid, matches[0].tid
    if not matches:
        raise NoSuchThread(
            f"process {pid} has no thread with the TID, ident or name {designation!r}", hint=f"threadsurgeon list {pid}"
        )
    tids = ", ".join(str(thread.tid) for thread in matches[:10])
    raise AmbiguousThread(f"{len(matches)} threads of process {pid} are named {designation!r}", hint=f"choose one: {tids}")


def _read_number(designation: str) -> int | None:
    # ASCII only, at most 64 bits, and leading zeroes do no harm.
    if re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}", designation):
        return int(designation, 16)
    return int(designation) if re.fullmatch(r"[0-9]{1,20}", designation) else None
