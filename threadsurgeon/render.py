"""Results as text for people: tables that fit the terminal, colours only where they help, and plain text when piped."""

from __future__ import annotations

import os
from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from threadsurgeon.errors import ThreadsurgeonError
from threadsurgeon.model.diagnosis import CheckStatus, Diagnosis
from threadsurgeon.model.locks import WaitGraph
from threadsurgeon.model.native import NativeStack
from threadsurgeon.model.operations import Outcome, Plan, Report
from threadsurgeon.model.threads import Frame, Listing, Thread

# A pipe has no width: nothing is cut or folded for it.
PIPE_WIDTH = 100_000
# On a narrower terminal the ident, which is seldom asked for, would leave no room for where a thread is.
IDENT_WIDTH = 100
# On a narrower one, where a thread is says more than two cut columns.
WAITS_WIDTH = 130
_OUTCOME_STYLES = {
    Outcome.ENDED: "green",
    Outcome.UNWOUND: "green",
    Outcome.SURVIVED: "yellow",
    Outcome.PENDING: "yellow",
    Outcome.TARGET_DIED: "bold red",
}
_CHECK_STYLES = {
    CheckStatus.OK: "green",
    CheckStatus.WARNING: "yellow",
    CheckStatus.FAILED: "bold red",
    CheckStatus.SKIPPED: "dim",
}


def make_console(*, stderr: bool = False) -> Console:
    """Return a console for this terminal, or for a pipe."""
    # A name such as :warning: is a name.
    console = Console(stderr=stderr, highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(stderr=stderr, highlight=False, emoji=False, width=PIPE_WIDTH, soft_wrap=True)
    return console


def describe_free_gil(listing: Listing) -> str:
    """Say in few words that nobody holds the GIL. A free-threaded build has one only where it was switched on."""
    return "no GIL held" if "free-threaded" in listing.python.build else "GIL free"


def print_listing(console: Console, listing: Listing, *, stacks: bool) -> None:
    """Print all threads of a process, a line each, or each with its whole stack."""
    count = len(listing.threads)
    native = sum(1 for thread in listing.threads if not thread.python)
    build = "" if listing.python.build == "release" else f" ({listing.python.build})"
    when = " when its core was written" if listing.core else ""
    console.print(
        f"[bold]process {listing.pid}[/]{when}: CPython {_plain(listing.python.version)}{build}, "
        f"{count} thread{'s' if count != 1 else ''}{f', {native} of them native' if native else ''}, "
        + (f"GIL held by thread {listing.gil_holder}" if listing.gil_holder else describe_free_gil(listing))
    )
    for warning in listing.warnings:
        console.print(f"[yellow]warning:[/] {_plain(warning)}")
    if stacks:
        for thread in listing.threads:
            console.print()
            print_thread(console, thread)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    table.add_column("TID", justify="right", no_wrap=True)
    with_ident = console.width >= IDENT_WIDTH
    if with_ident:
        table.add_column("IDENT", no_wrap=True, style="dim")
    # What may be cut is what may be wrapped, for rich: the two whose cells are cut instead of wrapped (see _cut).
    table.add_column("NAME", max_width=None if not console.is_terminal else 24)
    table.add_column("STATE", no_wrap=True)
    table.add_column("CPU%", justify="right", no_wrap=True)
    table.add_column("CPU s", justify="right", no_wrap=True)
    table.add_column("NOTES", no_wrap=True)
    with_waits = console.width >= WAITS_WIDTH
    if with_waits:
        table.add_column("WAITS FOR")
    table.add_column("WHERE")
    for thread in listing.threads:
        table.add_row(
            str(thread.tid),
            *([f"{thread.ident:#x}" if thread.ident is not None else "-"] if with_ident else []),
            _cut(_name(thread)),
            _state(thread),
            f"{thread.cpu_percent:.0f}" if thread.cpu_percent is not None else "-",
            f"{thread.cpu_seconds:.1f}" if thread.cpu_seconds is not None else "-",
            " ".join(_notes(thread)),
            *([_cut(_wait(thread))] if with_waits else []),
            _cut(_where(thread, shorten=console.is_terminal)),
            style=None if thread.python else "dim",
        )
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():  # without the blanks that fill the last column
        console.out(line.rstrip(), highlight=False)


def print_thread(console: Console, thread: Thread) -> None:
    """Print one thread with its Python frames, innermost first."""
    _print_thread_facts(console, thread)
    for frame in thread.frames:
        console.print(f"    {_plain(str(frame))}", soft_wrap=True)
    if not thread.frames:
        console.print("    (no Python frames)" if thread.python else "    (no Python state: a native thread)")


def print_native_stack(console: Console, stack: NativeStack) -> None:
    """Print one thread with its native frames, dimmed, and among them its Python frames, innermost first."""
    _print_thread_facts(console, stack.thread)
    for frame in stack.merged:
        text = _plain(str(frame))
        console.print(f"    {text}" if isinstance(frame, Frame) else f"    [dim]C {text}[/]", soft_wrap=True)
    for warning in stack.warnings:
        console.print(f"[yellow]warning:[/] {_plain(warning)}", soft_wrap=True)
    console.print(f"  [dim]stopped {stack.stopped_seconds * 1000:.1f} ms, this thread only; no other thread was stopped[/]")


def _print_thread_facts(console: Console, thread: Thread) -> None:
    facts = [_state(thread) if thread.state else "", " ".join(_notes(thread))]  # a core tells no state
    known = ", ".join(filter(None, facts))
    console.print(f"[bold]thread {thread.tid}[/] {_plain(_name(thread))}{f': {known}' if known else ''}")
    if thread.waits_for:
        console.print(f"    [cyan]{_plain(thread.waits_for.text)}[/]", soft_wrap=True)


def print_plan(console: Console, plan: Plan) -> None:
    """Print what would be done."""
    console.print(f"[bold]thread {plan.tid}[/] {_plain(plan.name or '')} of process {plan.pid}: nothing was touched")
    _print_facts(
        console,
        [
            ("it is", plan.doing),
            ("would raise", plan.exception or "-"),
            ("by", ", then ".join(plan.techniques)),
            ("because", plan.reason),
            *((f"  {rung.technique}", f"if {rung.when}; leaves behind {rung.leaves_behind}") for rung in plan.rungs),
            *(("holds", what) for what in plan.holds),
            *(("warning", warning) for warning in plan.warnings),
        ],
    )
    _print_frames(console, "stack", plan.stack)


def print_report(console: Console, report: Report) -> None:
    """Print what was done to a thread and what was seen afterwards."""
    style = _OUTCOME_STYLES[report.outcome]
    console.print(
        f"[bold]thread {report.tid}[/] {_plain(report.name or '')} of process {report.pid}: "
        f"[{style}]{report.outcome.value}[/]"
    )
    tried = ", ".join(f"{attempt.technique} ({attempt.outcome}, {attempt.seconds:.3f} s)" for attempt in report.attempts)
    _print_facts(
        console,
        [
            ("seen", report.detail),
            ("exception", report.exception or "-"),
            ("by", tried),
            ("stopped", f"{report.stopped_seconds * 1000:.1f} ms, this thread only; no other thread was stopped"),
            ("proof of life", "; ".join(report.evidence)),
            *(("cut", frame) for frame in report.cut),
            *(("left out", f"handlers of {frame}") for frame in report.skipped),
            *(("warning", warning) for warning in report.warnings),
            ("took", f"{report.seconds:.2f} s{f', with {report.debugger}' if report.debugger else ''}"),
        ],
    )
    if report.stack_after:
        _print_frames(console, "stack now", report.stack_after)


def print_diagnosis(console: Console, diagnosis: Diagnosis) -> None:
    """Print what ``doctor`` found, a line each, and below it what would help."""
    for check in diagnosis.checks:
        style = _CHECK_STYLES[check.status]
        console.print(f"[{style}]{check.status.value:<8}[/] {check.name:<13} {_plain(check.value)}", soft_wrap=True)
        if check.remedy and check.status is not CheckStatus.OK:
            console.print(f"{'':<22} [cyan]to do:[/] {_plain(check.remedy)}", soft_wrap=True)
    where = "here" if diagnosis.pid is None else f"on process {diagnosis.pid}"
    verdict = "[green]operating works" if diagnosis.ok else "[bold red]operating would not work"
    console.print(f"{verdict} {where}[/]")


def print_locks(console: Console, graph: WaitGraph) -> None:
    """Print who waits for what, what is wrong with that, and what to type next."""
    from threadsurgeon.locks.story import summarise, tell

    style = "bold red" if graph.deadlocks else "default"
    console.print(f"[bold]process {graph.pid}[/]: [{style}]{_plain(summarise(graph))}[/]", soft_wrap=True)
    for warning in graph.warnings:
        console.print(f"[yellow]warning:[/] {_plain(warning)}", soft_wrap=True)
    for heading, lines in tell(graph):
        console.print(f"\n[bold]{_plain(heading)}[/]")
        for line in lines:
            console.print(f"  {_plain(line)}", soft_wrap=True)
    if graph.advice:
        console.print("\n[bold]what to do[/]")
    for advice in graph.advice:
        console.print(f"  {_plain(advice.text)}", soft_wrap=True)
        console.print(f"      [cyan]{_plain(advice.command)}[/]", soft_wrap=True)


def print_drawing(console: Console, graph: WaitGraph) -> None:
    """Print who waits for what in the language of graphviz."""
    from threadsurgeon.locks.story import draw

    console.out(draw(graph), highlight=False)


def print_error(error: ThreadsurgeonError, console: Console | None = None) -> None:
    """Print the cause, and the next step; on standard error, if nowhere else."""
    console = console or make_console(stderr=True)
    console.print(f"[red]Error:[/] {_plain(str(error))}", soft_wrap=True)
    if error.hint:
        console.print(f"[cyan]Hint:[/] {_plain(error.hint)}", soft_wrap=True)


def _plain(text: str) -> str:
    """Return text from the target as text: no markup, no line breaks, nothing that a terminal would obey."""
    return escape(printable(text))


def _cut(text: str) -> Text:
    """Return text from the target as one line, cut where it does not fit."""
    return Text(printable(text), no_wrap=True, overflow="ellipsis")


def printable(text: str) -> str:
    """Return text from the target without anything that a terminal would obey."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _print_facts(console: Console, facts: Iterable[tuple[str, str]]) -> None:
    for label, value in facts:
        console.print(f"  [dim]{label:<14}[/] {_plain(value)}", soft_wrap=True)


def _print_frames(console: Console, label: str, frames: tuple[Frame, ...]) -> None:
    console.print(f"  [dim]{label}[/]")
    for frame in frames:
        console.print(f"      {_plain(str(frame))}", soft_wrap=True)


def _name(thread: Thread) -> str:
    return thread.name if thread.name is not None else f"({thread.native_name or 'native'})"


def _state(thread: Thread) -> str:
    return "[green]running[/]" if thread.state == "running" else thread.state or "-"


def _wait(thread: Thread) -> str:
    return thread.waits_for.text if thread.waits_for else ""


def _notes(thread: Thread) -> list[str]:
    notes = []
    if thread.holds_gil:
        notes.append("[bold yellow]GIL[/]")
    if thread.main:
        notes.append("main")
    if thread.daemon:
        notes.append("daemon")
    if thread.pool_worker:
        notes.append("pool")
    if thread.activity == "stuck":
        notes.append("stuck")
    if not thread.python:
        notes.append("native")
    if thread.interpreter:
        notes.append(f"interp-{thread.interpreter}")
    return notes


def _where(thread: Thread, *, shorten: bool) -> str:
    if not thread.frames:
        return ""
    frame = thread.frames[0]
    file = os.path.basename(frame.file) if shorten else frame.file
    return f"{frame.function} ({file}:{frame.line if frame.line is not None else '?'})"
