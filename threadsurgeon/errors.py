"""Every error of threadsurgeon.

An error means "could not operate" (or "refused"); what was seen after operating is an Outcome.

ThreadsurgeonError                  exit status 1
├── NoSuchProcess                   the PID does not exist, or ended meanwhile
├── NoSuchThread                    the TID does not exist, ended, or was reused
│   └── NativeThread                it exists, and has no Python state
├── AmbiguousThread                 a name that several threads have
├── NotPython                       no CPython in it: another program, PyPy, a kernel thread, a zombie
├── UnsupportedPython               a CPython we have no layout for, or that contradicts its layout
├── PermissionDenied                the kernel does not let us read or trace it
├── TargetBusy                      traced by another, stopped, or otherwise not to be touched now
├── UnreadableTarget                memory that should be readable is not, again and again
├── UnreadableCore                  a core file that is none, or damaged, or whose files are no longer there
├── LogUnwritable                   the audit trail cannot be written, and nothing is done without
├── DebuggerError
│   ├── DebuggerMissing             no usable gdb
│   ├── DebuggerFailed              gdb answered with an error, or not in time
│   └── DebuggerDied                gdb ended while we used it
└── Refused                         exit status 5: it could be done, and would harm
"""

from __future__ import annotations


class ThreadsurgeonError(Exception):
    """Could not operate. ``str(error)`` is the cause found, in one line; ``hint`` the next step, if there is one."""

    exit_status = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class NoSuchProcess(ThreadsurgeonError):
    """The process does not exist, or ended while we looked at it."""


class NoSuchThread(ThreadsurgeonError):
    """The thread does not exist, ended, or its TID now belongs to another thread."""


class NativeThread(NoSuchThread):
    """The thread exists, and has no Python state (any more)."""


class AmbiguousThread(ThreadsurgeonError):
    """More than one thread answers to the name given."""


class NotPython(ThreadsurgeonError):
    """There is no CPython in this process."""


class UnsupportedPython(ThreadsurgeonError):
    """A CPython whose structures we do not know, or that contradicts what we know."""


class PermissionDenied(ThreadsurgeonError):
    """The kernel does not let us read or trace the target."""


class TargetBusy(ThreadsurgeonError):
    """The target is traced by another, stopped, or otherwise in a state in which we do not touch it."""


class UnreadableTarget(ThreadsurgeonError):
    """The target's memory changed under every attempt to read it, or is not there."""


class UnreadableCore(ThreadsurgeonError):
    """A core file cannot be read, or not enough of it."""


class LogUnwritable(ThreadsurgeonError):
    """The audit trail that was asked for cannot be written; the operation has not begun."""


class DebuggerError(ThreadsurgeonError):
    """Something about gdb."""


class DebuggerMissing(DebuggerError):
    """There is no gdb here that we can use."""


class DebuggerFailed(DebuggerError):
    """gdb answered a command with an error, or not in time."""


class DebuggerDied(DebuggerError):
    """gdb ended while we used it."""


class Refused(ThreadsurgeonError):
    """It could be done, and would harm. ``hint`` names the flag that overrides, where one exists."""

    exit_status = 5
