"""Who waits for what."""

from __future__ import annotations

import gc
import sys

import click

import threadsurgeon
from threadsurgeon.cli.options import PID, json_option
from threadsurgeon.cli.output import show

DEADLOCK_STATUS = 1


@click.command()
@click.argument("pid", type=PID)
@click.option("--dot", is_flag=True, help="Print a picture in the language of graphviz: pipe it to dot -Tsvg.")
@json_option
def locks(pid: int, dot: bool, as_json: bool) -> None:
    """Show which threads of process PID wait for what, who holds it, deadlocks, and what to type next.

    The process is only looked at: never stopped, traced or written to. What is called proven was seen twice while the waiting
    thread did not run at all; everything else is inferred.

    \b
    Exit status: 0 no deadlock; 1 there is one, or the process cannot be looked at.
    """
    gc.disable()  # whatever is made from here on is needed to the end
    graph = threadsurgeon.find_locks(pid)
    status = DEADLOCK_STATUS if graph.deadlocks else 0
    show("drawing" if dot and not as_json else "locks", graph, as_json=as_json, unread_status=status)
    sys.exit(status)
