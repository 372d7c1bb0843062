"""The commands that make one thread end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import click

import threadsurgeon
from threadsurgeon.cli.options import THREAD, json_option, pid_option
from threadsurgeon.cli.output import show

if TYPE_CHECKING:
    from threadsurgeon.audit import Trail
    from threadsurgeon.model.operations import Report, Rung

exception_option = click.option(
    "--exception",
    "-e",
    metavar="NAME",
    help="The builtin exception to raise.  [default: SystemExit; TimeoutError in a pool worker]",
)
main_option = click.option(
    "--main", is_flag=True, help="Also the main thread: raises KeyboardInterrupt there, by SIGINT."
)
log_option = click.option(
    "--log",
    metavar="FILE",
    envvar="THREADSURGEON_LOG",
    show_envvar=True,
    help="Append to FILE, before and afterwards, who does what to which thread; where that fails, nothing is done.",
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Only say what would be done, and why.")


@click.command()
@click.argument("thread", type=THREAD, metavar="TID")
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
@log_option
@dry_run_option
@json_option
def cancel(
    thread: str,
    pid: int | None,
    exception: str | None,
    timeout: float,
    leave_pending: bool,
    main: bool,
    log: str | None,
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
        show("plan", threadsurgeon.plan(thread, pid=pid, exception=exception, main=main), as_json=as_json)
        return
    with _orderly_end(), _open_journal(log) as journal:
        report = threadsurgeon.cancel(
            thread,
            pid=pid,
            exception=exception,
            timeout=timeout,
            leave_pending=leave_pending,
            main=main,
            journal=journal,
        )
    _show_report(report, as_json=as_json)


@click.command()
@click.argument("thread", type=THREAD, metavar="TID")
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
@log_option
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
    log: str | None,
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
        show("plan", plan, as_json=as_json)
        return
    with _orderly_end(), _open_journal(log) as journal:
        report = threadsurgeon.kill(
            thread,
            pid=pid,
            exception=exception,
            grace=grace,
            main=main,
            force=force,
            in_import=in_import,
            confirm=_consent(yes),
            journal=journal,
        )
    _show_report(report, as_json=as_json)


def _open_journal(log: str | None) -> AbstractContextManager[Trail]:
    from threadsurgeon.audit import Trail  # --help need not wait for it

    return closing(Trail(log))


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


def _show_report(report: Report, *, as_json: bool) -> None:
    show("report", report, as_json=as_json, unread_status=report.outcome.exit_status)
    sys.exit(report.outcome.exit_status)
