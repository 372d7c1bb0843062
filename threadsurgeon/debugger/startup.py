"""How gdb is started: found, told to read nothing it need not, and shut off from our environment. Never through a shell."""

from __future__ import annotations

import importlib.resources
import os
import shutil
import subprocess
from pathlib import Path

from threadsurgeon.errors import DebuggerMissing
from threadsurgeon.linux.trust import find_who_may_replace

INSTALL_HINT = (
    "install gdb 10 or newer, built with Python 3.9 or newer (Debian, Ubuntu: apt install gdb; Fedora: dnf install gdb)"
)

SETTINGS = (
    # Nothing of the target's or the user's is loaded or run: no scripts, no libthread_db, no symbols, no network. gdb
    # knows only what we tell it, attaches in less than a millisecond whatever is mapped there, and puts no breakpoints of
    # its own into the dynamic loader, which would kill the threads that nobody traces.
    "auto-load off",
    "libthread-db-search-path /nonexistent",
    "auto-solib-add off",
    "sysroot /nonexistent",
    "debug-file-directory /nonexistent",
    "debuginfod enabled off",
    # gdb goes on reading its input while the target runs, and lets go of the target when that input ends: our safety line.
    "mi-async on",
    # Interrupting a thread is then a SIGSTOP directed at it; otherwise a SIGINT that may reach Python's main thread.
    "non-stop on",
    # To go on from a breakpoint gdb would otherwise run a copy of the instruction, which it writes over the code at the
    # program's entry point, for the sake of other traced threads: there are none.
    "displaced-stepping off",
    "unwindonsignal on",
    "breakpoint pending off",
    "print thread-events off",
    "print inferior-events off",
    "confirm off",
    "pagination off",
    "width 0",
    "language c",
    "print elements 0",
)


def find_gdb() -> str:
    """Return the path of gdb.

    Raises:
        DebuggerMissing: there is none; or we are root, and somebody else could have put it there.
    """
    path = shutil.which("gdb")
    if path is None:
        raise DebuggerMissing("there is no gdb on PATH", hint=INSTALL_HINT)
    danger = find_who_may_replace(path) if os.geteuid() == 0 else None
    if danger is not None:
        raise DebuggerMissing(
            f"root does not run {path}, which others can replace: {danger}",
            hint="name another one first on PATH: sudo env PATH=/usr/bin:/bin threadsurgeon …; or run as that user",
        )
    return path


def find_scripts() -> Path:
    """Return the folder ``gdb_scripts``, installed or, in a checkout that is not installed, next to our package."""
    try:
        return Path(str(importlib.resources.files("threadsurgeon.gdb_scripts")))
    except ModuleNotFoundError:
        return Path(__file__).parents[2] / "gdb_scripts"


def gdb_arguments(gdb: str) -> list[str]:
    """Return the command line of gdb for our purpose."""
    settings = [argument for setting in SETTINGS for argument in ("-iex", f"set {setting}")]
    return [gdb, "-nx", "-q", "--interpreter=mi3", "--readnever", *settings, "-x", str(find_scripts() / "bootstrap.py")]


def start_gdb(arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start gdb, out of reach of the signals of our terminal.

    Raises:
        DebuggerMissing: it cannot be started.
    """
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a pipe that nobody reads would stop gdb for ever once it is full
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise DebuggerMissing(f"{arguments[0]} cannot be started: {error.strerror}", hint=INSTALL_HINT) from None
    try:  # rather us than gdb, when memory runs out: needs CAP_SYS_RESOURCE
        Path(f"/proc/{process.pid}/oom_score_adj").write_text("-900")
    except OSError:
        pass
    return process


def start_dummy() -> subprocess.Popen[bytes] | None:
    """Start a process that does nothing and ends when we do, for gdb to warm up with; None where that is not possible."""
    cat = shutil.which("cat", path=os.defpath)  # the system's, whatever PATH says
    if cat is None:
        return None
    try:
        return subprocess.Popen([cat], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError:
        return None
