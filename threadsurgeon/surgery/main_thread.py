"""Raise KeyboardInterrupt in the main thread, as Ctrl-C does: by a signal, since nothing can be attached to it alone."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from threadsurgeon.errors import NoSuchProcess, PermissionDenied, Refused
from threadsurgeon.inventory import Target


def check_handles_interrupt(pid: int) -> None:
    """Make sure that the process catches SIGINT: ignored it does nothing, and by default it ends the process at once.

    Raises:
        Refused: it does not catch it.
    """
    status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
    if caught is None or not int(caught[1], 16) & 1 << (signal.SIGINT - 1):
        raise Refused(f"process {pid} does not catch SIGINT: no KeyboardInterrupt would be raised in its main thread")


def send_interrupt(target: Target) -> None:
    """Send SIGINT to the very process that was looked at. What its handler does is up to it; Python's own raises.

    Raises:
        NoSuchProcess: it ended meanwhile.
        PermissionDenied: it is another user's.
    """
    try:
        descriptor = os.pidfd_open(target.pid)  # means this process also if the PID is given to another from now on
        try:
            target.check_is_same()
            signal.pidfd_send_signal(descriptor, signal.SIGINT)
        finally:
            os.close(descriptor)
    except ProcessLookupError:
        raise NoSuchProcess(f"process {target.pid} ended") from None
    except PermissionError:
        raise PermissionDenied(
            f"we may not send signals to process {target.pid}, which belongs to user {target.status.uid}",
            hint="run threadsurgeon as that user, or as root (sudo)",
        ) from None
