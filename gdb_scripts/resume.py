"""Let the stopped thread run, as soon as the command that wants it is answered."""

from __future__ import annotations

from collections.abc import Callable

import gdb


def run_after_answer(note: Callable[[], None]) -> None:
    """Have the thread go on once gdb has answered the command, and then call ``note``.

    Not within the command: up to 17, gdb then answers ``^running`` and drops what the command returns, and 18 does not answer
    at all. But as a command of the machine interface, without a token: 14 to 16 write ``^running`` after any other as well, with
    the token of no command at all, a pointer that nobody has set (mi_interp::current_token in mi-interp.h).
    """

    def run() -> None:
        gdb.execute('interpreter-exec mi3 "-exec-continue"', to_string=True)
        note()

    gdb.post_event(run)
