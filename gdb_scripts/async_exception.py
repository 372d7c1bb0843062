"""``-ts-raise`` and ``-ts-withdraw``: an asynchronous exception, by writing memory. The thread executes nothing for us."""

from __future__ import annotations

import time
from typing import Any

from .command import command
from .guard import attached
from .victim import Victim


@command("-ts-raise")
def raise_async(*, victim: dict[str, Any]) -> dict[str, Any]:
    """Attach, make the exception pending, detach. ``previous`` is what was pending before."""
    subject = Victim(**victim)
    began = time.monotonic()
    with attached(subject.tid):
        subject.check()
        previous = subject.set_pending()
    return {"previous": previous, "stopped_seconds": time.monotonic() - began}


@command("-ts-withdraw")
def withdraw(*, victim: dict[str, Any]) -> dict[str, Any]:
    """Attach, take the exception back if it is still pending, detach."""
    subject = Victim(**victim)
    began = time.monotonic()
    with attached(subject.tid):
        subject.check()
        withdrawn = subject.withdraw()
    return {"withdrawn": withdrawn, "stopped_seconds": time.monotonic() - began}
