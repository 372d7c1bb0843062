"""The commands: parse, call, render, exit status. Everything else is behind ``threadsurgeon``'s public functions."""

from __future__ import annotations

import io
import signal
import sys
from typing import Any

import click

import threadsurgeon
from threadsurgeon.cli.doctor import doctor
from threadsurgeon.cli.locks import locks
from threadsurgeon.cli.look import attach, list_command, stack
from threadsurgeon.cli.operate import cancel, kill
from threadsurgeon.cli.output import unheard
from threadsurgeon.errors import ThreadsurgeonError


class _Commands(click.Group):
    """Shows our errors in one line, with the exit status they document."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ThreadsurgeonError as error:
            from threadsurgeon.render import print_error

            with unheard():
                print_error(error)
            ctx.exit(error.exit_status)
        except KeyboardInterrupt:
            ctx.exit(128 + signal.SIGINT)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(threadsurgeon.__version__)
@click.option("-v", "--verbose", count=True, help="Say what is done; -vv shows the whole conversation with gdb.")
def cli(verbose: int) -> None:
    """See every thread of a running CPython process, and make one of them end while the process lives on."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal's encoding lacks is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    if verbose:
        import logging

        level = logging.INFO if verbose == 1 else logging.DEBUG
        logging.basicConfig(level=level, format="%(relativeCreated)7.1f ms %(name)s: %(message)s")


for command in (list_command, stack, locks, cancel, kill, attach, doctor):
    cli.add_command(command)
