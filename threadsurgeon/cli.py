"""The commands: parse, call, render, exit status. Everything else is behind ``threadsurgeon``'s public functions."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

import threadsurgeon
from threadsurgeon.errors import ThreadsurgeonError

if TYPE_CHECKING:
    from threadsurgeon.model import Listing, Plan, Report, Rung, Thread

PID = click.IntRange(min=1, max=2**31 - 1)  # pid_t: no path in /proc is too long for it
SORT_KEYS = {
    "tid": lambda thread: (not thread.main, thread.tid),
    "cpu": lambda thread: (-(thread.cpu_percent or 0.0), -thread.cpu_seconds),
    "name": lambda thread: (thread.name is None, thread.name or thread.native_name),
    "state": lambda thread: (thread.state != "running", thread.state, thread.tid),
}


class _Commands(click.Group):
    """Shows our errors in one line, with the exit status they document."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ThreadsurgeonError as error:
            from threadsurgeon.render import print_error

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


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
pid_option = click.option(
    "--pid", "-p", type=PID, help="The process, where THREAD is a Python ident or a thread's name."
)
exception_option = click.option(
    "--exception",
    "-e",
    metavar="NAME",
    help="The builtin exception to raise.  [default: SystemExit; TimeoutError in a pool worker]",
)
main_option = click.option(
    "--main", is_flag=True, help="Also the main thread: raises KeyboardInterrupt there, by SIGINT."
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Only say what would be done, and why.")


@cli.command("list")
@click.argument("pid", type=PID)
@click.option("--stacks", is_flag=True, help="Show the whole stack of each thread.")
@click.option("--sort", type=click.Choice(list(SORT_KEYS)), default="tid", show_default=True)
@json_option
def list_command(pid: int, stacks: bool, sort: str, as_json: bool) -> None:
    """List every thread of process PID. The process is only looked at: never stopped, traced or written to."""
    _show_listing(_sorted(threadsurgeon.list_threads(pid), sort), stacks=stacks, as_json=as_json)


@cli.command()
@click.argument("thread", metavar="TID")
@pid_option
@json_option
def stack(thread: str, pid: int | None, as_json: bool) -> None:
    """Show the Python stack of one thread, innermost frame first. The process is only looked at."""
    _show_stack(threadsurgeon.find_thread(thread, pid=pid), as_json=as_json)


@cli.command()
@click.argument("thread", metavar="TID")
@pid_option
@exception_option
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=threadsurgeon.DEFAULT_TIMEOUT_SECONDS,
    show_default=True,
    help="Seconds after which an exception that the thread has not noticed is taken back.",
)
@click.option("--leave-pending", is_flag=True, help="Do not take it back: the thread raises it when it notices.")
@main_option
@dry_run_option
@json_option
def cancel(
    thread: str,
    pid: int | None,
    exception: str | None,
    timeout: float,
    leave_pending: bool,
    main: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Raise an exception in one thread, interrupting what it waits for.

    The thread is stopped for some milliseconds, the others not at all. Python unwinds the thread: finally blocks run, and
    locks taken by with blocks are given back.

    \b
    Exit status: 0 the thread ended, or left the stuck call; 3 code caught the exception;
    4 not noticed in time; 5 refused; 6 the process ended; 1 could not operate.
    """
    if dry_run:
        _show_plan(threadsurgeon.plan(thread, pid=pid, exception=exception, main=main), as_json=as_json)
        return
    with _orderly_end():
        report = threadsurgeon.cancel(
            thread, pid=pid, exception=exception, timeout=timeout, leave_pending=leave_pending, main=main
        )
    _show_report(report, as_json=as_json)


@cli.command()
@click.argument("thread", metavar="TID")
@pid_option
@exception_option
@click.option(
    "--grace",
    type=click.FloatRange(min=0.1),
    default=threadsurgeon.DEFAULT_TIMEOUT_SECONDS,
    show_default=True,
    help="Seconds for each rung of the ladder before the next one.",
)
@main_option
@click.option("--in-import", is_flag=True, help="Also a thread that is inside an import.")
@click.option("--force", is_flag=True, help="At last also without unwinding; ends native threads, too.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before the harder rungs.")
@dry_run_option
@json_option
def kill(
    thread: str,
    pid: int | None,
    exception: str | None,
    grace: float,
    main: bool,
    in_import: bool,
    force: bool,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Like cancel, again while code catches the exception, and then by harder means.

    Each rung is used only after the gentler ones were seen to fail, and asked for on a terminal: first the native frames of C
    code that never checks for signals are removed (cut); the handlers of code that catches every exception are left out
    (insist); and only with --force the thread ends without unwinding (terminate).

    \b
    Exit statuses are those of cancel.
    """
    if dry_run:
        plan = threadsurgeon.plan(
            thread, pid=pid, exception=exception, main=main, climb=True, force=force, in_import=in_import
        )
        _show_plan(plan, as_json=as_json)
        return
    with _orderly_end():
        report = threadsurgeon.kill(
            thread,
            pid=pid,
            exception=exception,
            grace=grace,
            main=main,
            force=force,
            in_import=in_import,
            confirm=_consent(yes),
        )
    _show_report(report, as_json=as_json)


def _consent(yes: bool) -> Callable[[Rung], bool]:
    """Return what answers before a harder rung: --yes, a person at a terminal, or else the command itself.

    A thread is not ended without unwinding unless somebody said yes to just that.
    """

    def confirm(rung: Rung) -> bool:
        if yes:
            return True
        if sys.stdin.isatty() and sys.stderr.isatty():
            click.echo(f"next: {rung.technique}, since {rung.when}\nmay leave behind: {rung.leaves_behind}", err=True)
            return click.confirm("go on?", err=True)
        return rung.technique != "terminate"

    return confirm


@cli.command()
@click.argument("pid", type=PID)
def attach(pid: int) -> None:
    """List the threads of process PID, and on a terminal take commands: list, stack, cancel, kill, quit."""
    _show_listing(threadsurgeon.list_threads(pid), stacks=False, as_json=False)
    if all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout)):  # None: closed by our parent
        from threadsurgeon.prompt import Prompt

        Prompt(pid, cli).run()


def _show_plan(plan: Plan, *, as_json: bool) -> None:
    with _output():
        if as_json:
            from threadsurgeon.schema import dump_plan

            click.echo(dump_plan(plan))
        else:
            from threadsurgeon.render import make_console, print_plan

            print_plan(make_console(), plan)


def _show_report(report: Report, *, as_json: bool) -> None:
    with _output(report.outcome.exit_status):
        if as_json:
            from threadsurgeon.schema import dump_report

            click.echo(dump_report(report))
        else:
            from threadsurgeon.render import make_console, print_report

            print_report(make_console(), report)
    sys.exit(report.outcome.exit_status)


def _show_listing(listing: Listing, *, stacks: bool, as_json: bool) -> None:
    with _output():
        if as_json:
            from threadsurgeon.schema import dump_listing

            click.echo(dump_listing(listing))
        else:
            from threadsurgeon.render import make_console, print_listing

            print_listing(make_console(), listing, stacks=stacks)


def _show_stack(thread: Thread, *, as_json: bool) -> None:
    with _output():
        if as_json:
            from threadsurgeon.schema import dump_thread

            click.echo(dump_thread(thread))
        else:
            from threadsurgeon.render import make_console, print_stack

            print_stack(make_console(), thread)


@contextmanager
def _output(unread_status: int = 1) -> Iterator[None]:
    """Write the result; where it cannot be written or nobody reads it, end without a traceback.

    What was done to a thread stays done: then the exit status says how it ended.
    """
    try:
        yield
        return
    except (BrokenPipeError, SystemExit):  # the latter is what rich makes of the former
        pass
    except OSError as error:
        click.echo(f"Error: the result cannot be written: {error.strerror}", err=True)
    # What is still in the buffer would fail again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(unread_status)


def _sorted(listing: Listing, key: str) -> Listing:
    return listing._replace(threads=tuple(sorted(listing.threads, key=SORT_KEYS[key])))


@contextmanager
def _orderly_end() -> Iterator[None]:
    """Turn the signals that end us into an exception, so that gdb lets go of the thread before we go."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    # One that is ignored was meant to be: nohup.
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    before = [signal.signal(number, end) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
