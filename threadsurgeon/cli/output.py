"""Results on their way out: as JSON for programs, as text for people."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click


def show(what: str, result: Any, *, as_json: bool, unread_status: int = 1, **options: Any) -> None:
    """Write a result with ``schema.dump_WHAT`` or ``render.print_WHAT``; only the one that is needed is imported."""
    with _output(unread_status):
        if as_json:
            from threadsurgeon import schema

            click.echo(getattr(schema, f"dump_{what}")(result))
        else:
            from threadsurgeon import render

            getattr(render, f"print_{what}")(render.make_console(), result, **options)


@contextmanager
def unheard() -> Iterator[None]:
    """Say something on standard error, even if nobody can hear it: the exit status tells as well."""
    try:
        yield
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


@contextmanager
def _output(unread_status: int) -> Iterator[None]:
    """Write the result; where it cannot be written or nobody reads it, end without a traceback.

    What was done to a thread stays done: then the exit status says how it ended.
    """
    try:
        yield
        return
    except (BrokenPipeError, SystemExit):  # the latter is what rich makes of the former
        pass
    except OSError as error:
        with unheard():
            click.echo(f"Error: the result cannot be written: {error.strerror}", err=True)
    # What is still in the buffer would fail again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(unread_status)
