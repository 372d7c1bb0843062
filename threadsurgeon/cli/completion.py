"""What a shell offers for a PID or a TID: Python processes and their threads, with what they are. Only ``/proc`` is read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import click
from click.shell_completion import CompletionItem
from click.types import StringParamType

from threadsurgeon.errors import ThreadsurgeonError
from threadsurgeon.linux.process import iterate_tasks

# A file that a process has mapped: python3.12, libpython3.12d.so.1.0, python3.13t; also of programs that embed it.
PYTHON = re.compile(rb"/(?:lib)?python(?:[0-9][^/\n]*)?$", re.MULTILINE)


class PidType(click.IntRange):
    """A PID, of which a shell offers those of Python processes."""

    def shell_complete(self, _ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the Python processes whose PID begins like that, with their commands."""
        return [CompletionItem(str(pid), help=command) for pid, command in find_pythons() if str(pid).startswith(incomplete)]


class ThreadType(StringParamType):
    """A thread in any of the ways to say which; a shell offers TIDs, with ``--pid`` those of that process."""

    def shell_complete(self, ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the threads whose TID begins like that, with their names and processes."""
        chosen = ctx.params.get("pid")
        return [
            CompletionItem(str(task.tid), help=f"{_printable(task.native_name)}, of process {pid}: {command}")
            for pid, command in find_pythons()
            if chosen in (None, pid)
            for task in iterate_tasks(pid)
            if str(task.tid).startswith(incomplete)
        ]


def find_pythons() -> Iterator[tuple[int, str]]:
    """Yield the PID and the command of every Python process that we may look at."""
    for name in filter(str.isdecimal, os.listdir("/proc")):
        pid = int(name)
        try:
            if pid != os.getpid() and PYTHON.search(_read(f"/proc/{pid}/maps")):
                yield pid, _printable(os.fsdecode(_read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").strip()))
        except (OSError, ThreadsurgeonError):  # it ended, or is another user's
            continue


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(65536)  # the program and its libraries come first


def _printable(text: str) -> str:
    """Return text of a process as one line without anything that a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in text)
