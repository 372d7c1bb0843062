"""What several commands take."""

from __future__ import annotations

import click

from threadsurgeon.cli.completion import PidType, ThreadType

PID = PidType(min=1, max=2**31 - 1)  # pid_t: no path in /proc is too long for it
THREAD = ThreadType()

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
pid_option = click.option(
    "--pid", "-p", type=PID, help="The process, where THREAD is a Python ident or a thread's name."
)
