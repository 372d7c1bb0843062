"""Let the stopped thread run, as soon as the command that wants it is answered."""

from __future__ import annotations

from collections.abc import Callable

import gdb


def run_after_answer(note: Callable[[], None]) -> None:
    """Have the thread go on once gdb has answered the command, and then call ``note``.

    Not within the command: up to 17, gdb then answers ``^running`` and drops what the command returns, and 18 does not answer
    at all.
    """

    def run() -> None:
        gdb.execute("continue&", to_string=True)
        note()

    gdb.post_event(run)
