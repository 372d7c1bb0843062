"""Let the stopped thread run, as soon as the command that wants it is answered."""

from __future__ import annotations

from collections.abc import Callable

import gdb


def run_after_answer(note: Callable[[], None]) -> None:
    """Have the thread go on once gdb has answered the command, and then call ``note``.

    Not within the command: up to 17, gdb then answers ``^running`` and drops what the command returns, and 18 does not answer
    at all. And not as a command of the console: 14 to 16 then write the token of no command before ``^running``, by a pointer
    that nobody has set (mi_interp::current_token in mi-interp.h), and may crash.
    """

    def run() -> None:
        gdb.execute('interpreter-exec mi3 "-exec-continue"', to_string=True)
        # An error of that command is no exception.
        if any(thread.is_running() for thread in gdb.selected_inferior().threads()):
            note()

    gdb.post_event(run)
