"""The child processes that a process can wait for, by the ids that it knows them by."""

from __future__ import annotations

from threadsurgeon.errors import ThreadsurgeonError
from threadsurgeon.linux.process import Status, read_status

# More children than these are counted, not named.
NAMED = 3


def describe_child(status: Status, namespace_pid: int) -> str:
    """Return ``child 812 (cat)``. ``namespace_pid``: as the process itself sees it; the words have it as seen from here."""
    pid = namespace_pid if len(status.namespace_pids) == 1 else _translate(status, namespace_pid)
    if pid is None:
        return f"child {namespace_pid}"
    try:
        return f"child {pid} ({read_status(pid).name})"
    except ThreadsurgeonError:
        return f"child {pid}"


def describe_any_child(pid: int) -> str:
    """Return ``any child: 812 (cat), 813 (ffmpeg)``."""
    children = _list_children(pid)
    names = []
    for child in children[:NAMED]:
        try:
            names.append(f"{child} ({read_status(child).name})")
        except ThreadsurgeonError:
            continue
    if len(children) > NAMED:
        names.append(f"{len(children) - NAMED} more")
    return "any child" + (f": {', '.join(names)}" if names else "")


def _translate(status: Status, namespace_pid: int) -> int | None:
    depth = len(status.namespace_pids) - 1
    for child in _list_children(status.namespace_pids[0]):
        try:
            pids = read_status(child).namespace_pids
        except ThreadsurgeonError:
            continue
        if len(pids) > depth and pids[depth] == namespace_pid:
            return child
    return None


def _list_children(pid: int) -> list[int]:
    import psutil  # takes 40 ms to load, and is seldom needed

    try:
        return sorted(child.pid for child in psutil.Process(pid).children())
    except psutil.Error:
        return []
