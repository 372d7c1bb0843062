"""The command that says whether the others would work."""

from __future__ import annotations

import sys

import click

import threadsurgeon
from threadsurgeon.cli.options import PID, json_option
from threadsurgeon.cli.output import show


@click.command()
@click.argument("pid", type=PID, required=False)
@json_option
def doctor(pid: int | None, as_json: bool) -> None:
    """Say whether operating works here, and with PID on that process; where not, why, and what to do about it.

    What it takes is tried on a child of ours. The process is only looked at: never stopped, traced or written to.

    \b
    Exit status: 0 operating would work; 1 it would not.
    """
    diagnosis = threadsurgeon.diagnose(pid)
    show("diagnosis", diagnosis, as_json=as_json)
    sys.exit(0 if diagnosis.ok else 1)
