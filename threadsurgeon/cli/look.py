"""The commands that only look."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

import threadsurgeon
from threadsurgeon.cli.options import PID, THREAD, json_option, pid_option
from threadsurgeon.cli.output import show

if TYPE_CHECKING:
    from threadsurgeon.model.threads import Listing

SORT_KEYS = {
    "tid": lambda thread: (not thread.main, thread.tid),
    "cpu": lambda thread: (-(thread.cpu_percent or 0.0), -(thread.cpu_seconds or 0.0)),
    "name": lambda thread: (thread.name is None, thread.name or thread.native_name),
    "state": lambda thread: (thread.state != "running", thread.state, thread.tid),
}

core_option = click.option(
    "--core", metavar="FILE", help="Look at a core file instead, as the kernel or gcore writes it."
)


@click.command("list")
@click.argument("pid", type=PID, required=False)
@core_option
@click.option("--stacks", is_flag=True, help="Show the whole stack of each thread.")
@click.option("--sort", type=click.Choice(list(SORT_KEYS)), default="tid", show_default=True)
@json_option
def list_command(pid: int | None, core: str | None, stacks: bool, sort: str, as_json: bool) -> None:
    """List every thread of process PID. The process is only looked at: never stopped, traced or written to."""
    if (pid is None) == (core is None):
        raise click.UsageError("Give either a PID or a core file: threadsurgeon list PID, or threadsurgeon list --core FILE.")
    listing = threadsurgeon.list_core(core) if core is not None else threadsurgeon.list_threads(pid or 0, forks=True)
    listing = _sorted(listing, sort)
    show("listing", listing, as_json=as_json, stacks=stacks)


def _sorted(listing: Listing, key: str) -> Listing:
    return listing._replace(threads=tuple(sorted(listing.threads, key=SORT_KEYS[key])))


@click.command()
@click.argument("thread", type=THREAD, metavar="TID")
@pid_option
@core_option
@click.option("--native", is_flag=True, help="With its native frames: gdb stops this one thread for some milliseconds.")
@json_option
def stack(thread: str, pid: int | None, core: str | None, native: bool, as_json: bool) -> None:
    """Show the Python stack of one thread, innermost frame first. Without --native the process is only looked at."""
    if core is not None and (native or pid is not None):
        raise click.UsageError("--core cannot be combined with --native or --pid.")
    if native:
        show("native_stack", threadsurgeon.find_native_stack(thread, pid=pid), as_json=as_json)
        return
    show("thread", threadsurgeon.find_thread(thread, pid=pid, core=core), as_json=as_json)


@click.command()
@click.argument("pid", type=PID)
def attach(pid: int) -> None:
    """Show the threads of process PID as they live, and end those you choose; without a terminal list them once."""
    on_terminal = all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))  # None: closed
    if on_terminal and os.environ.get("TERM", "dumb") not in ("dumb", "unknown"):
        from threadsurgeon import tui

        tui.run(pid)
    else:
        show("listing", threadsurgeon.list_threads(pid, forks=True), as_json=False, stacks=False)
