"""Results as text: whole where piped, fitting where narrow, and nothing in it that the terminal would obey."""

import io
import re
import sys

import pytest
from rich.console import Console

from tests.unit import examples
from tests.unit.examples import replace
from threadsurgeon.errors import NoSuchThread
from threadsurgeon.model.operations import Outcome
from threadsurgeon.model.threads import Frame, Python
from threadsurgeon.render import make_console, print_error, print_listing, print_plan, print_report, print_thread

HOSTILE = [
    "[red]x[/]",
    "[/]",
    "x\\",
    "[link=http://x]y",
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\n\r\n",
    "a\tb\x08\x7f",
    "\u2028\u202e\x85",
    "\ud800\udcff",
    ":warning: :smile:",
    "",
]
SEQUENCE = re.compile(r"\x1b\[[0-9;]*m")
COLOURS = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")


class Terminal(io.StringIO):
    """A terminal that remembers what it was sent."""

    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def no_surroundings(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture
def on_terminal():
    """What a command shows on a terminal of some width."""

    def show(printer, *arguments, width=80, **options):
        terminal = Terminal()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", terminal)
            patch.setenv("COLUMNS", str(width))
            printer(make_console(), *arguments, **options)
        return terminal.getvalue()

    return show


@pytest.fixture
def piped(capsys):
    """What a command writes into a pipe."""

    def show(printer, *arguments, **options):
        printer(make_console(), *arguments, **options)
        return capsys.readouterr().out

    return show


def named(name):
    """A listing in which everything that the target says is that."""
    thread = replace(examples.WAITING, name=name, frames=(Frame(name, f"/{name}", 5),))
    native = replace(examples.NATIVE, native_name=name)
    return replace(
        examples.LISTING,
        python=Python(f"3.12.1{name}", "release", name),
        threads=(examples.MAIN, thread, native),
        warnings=(name,),
    )


def all_shown(show, name):
    """Everything that we can print, made of that name."""
    listing = named(name)
    thread = listing.threads[1]
    plan = replace(examples.PLAN, name=name, doing=name, reason=name, stack=thread.frames, warnings=(name,), exception=name)
    report = replace(
        examples.REPORT, name=name, detail=name, evidence=(name,), stack_after=thread.frames, exception=name, technique=name
    )
    return "".join(
        [
            show(print_listing, listing, stacks=False),
            show(print_listing, listing, stacks=True),
            show(print_thread, thread),
            show(print_plan, plan),
            show(print_report, report),
        ]
    )


def test_piped_listing_is_whole(piped):
    """A header, a title line, and a line for each thread, with nothing cut, however long."""
    long = replace(examples.WAITING, name="n" * 300, frames=(Frame("f" * 300, "/d" * 300, 7),))
    text = piped(print_listing, replace(examples.LISTING, threads=(examples.MAIN, long, examples.NATIVE)), stacks=False)
    lines = text.splitlines()

    assert lines[0] == "process 4711: CPython 3.12.1, 3 threads, 1 of them native, GIL held by thread 4712"
    assert lines[1].split() == ["TID", "IDENT", "NAME", "STATE", "CPU%", "CPU", "s", "NOTES", "WAITS", "FOR", "WHERE"]
    assert " ".join(lines[2].split()) == "4711 0x7f0000000001 MainThread sleeping 0 1.2 main main (/app/main.py:10)"
    assert lines[3].split()[:6] == ["4712", "0x7f0000000002", "n" * 300, "running", "100", "61.0"]
    assert " ".join(lines[3].split()).endswith(f"GIL daemon pool {'f' * 300} ({'/d' * 300}:7)")
    assert lines[4].split() == ["4713", "-", "(gmain)", "sleeping", "-", "0.0", "native"]
    assert "\x1b" not in text
    assert [line for line in lines if line != line.rstrip()] == []


@pytest.mark.parametrize("width", [80, 100, 200])
def test_listing_fits_the_terminal(on_terminal, width):
    """A line for each thread, none longer than the terminal is wide; what does not fit is cut."""
    long = replace(examples.WAITING, name="n" * 300, frames=(Frame("f" * 300, "/d" * 300, 7),), interpreter=123)
    text = on_terminal(print_listing, replace(examples.LISTING, threads=(examples.MAIN, long)), stacks=False, width=width)
    lines = [SEQUENCE.sub("", line) for line in text.splitlines()]

    assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in lines[-2:]] == ["4711", "4712"]


def test_tid_is_never_cut(on_terminal):
    """It is what has to be typed next, also where the terminal is narrow and everything else is long."""
    frames = (Frame("f" * 300, "/d", 7),)
    long = replace(examples.WAITING, tid=4194303, name="n" * 300, state="tracing-stop", frames=frames, interpreter=99)
    text = on_terminal(print_listing, replace(examples.LISTING, threads=(long,)), stacks=False, width=80)

    assert "4194303" in SEQUENCE.sub("", text.splitlines()[-1])


def test_colours_are_for_terminals_only(on_terminal, piped):
    """And the text is the same."""
    coloured, plain = on_terminal(print_thread, examples.WAITING, width=200), piped(print_thread, examples.WAITING)

    assert SEQUENCE.search(coloured)
    assert SEQUENCE.sub("", coloured) == plain


def test_no_color_is_respected(on_terminal, monkeypatch):
    """https://no-color.org: bold is no colour."""
    monkeypatch.setenv("NO_COLOR", "1")
    text = on_terminal(print_listing, examples.LISTING, stacks=False)

    assert not COLOURS.search(text)
    assert "running" in text


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_names_from_the_target_are_shown_and_not_obeyed(on_terminal, piped, name):
    """Escape sequences, line breaks, other directions, markup: nothing of it reaches the terminal as it is."""
    ours = all_shown(on_terminal, "name")
    terminal, pipe = all_shown(on_terminal, name), all_shown(piped, name)

    assert set(SEQUENCE.findall(terminal)) <= set(SEQUENCE.findall(ours))
    for text in (SEQUENCE.sub("", terminal), pipe):
        assert [character for character in text if not character.isprintable() and character != "\n"] == []
    assert pipe.count("\n") == all_shown(piped, "name").count("\n")
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)
    assert pipe.count(text) >= 20


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_errors_are_one_line_whatever_they_name(capsys, name):
    """The cause and the hint, on standard error."""
    print_error(NoSuchThread(f"no thread {name}", hint=f"try {name}"))
    captured = capsys.readouterr()

    assert captured.out == ""
    assert captured.err.startswith("Error: no thread ")
    assert captured.err.count("\n") == 2
    assert captured.err.splitlines()[1].startswith("Hint: try")
    assert [letter for letter in captured.err if not letter.isprintable() and letter != "\n"] == []


def test_error_without_hint_is_one_line(capsys):
    """However long it is."""
    print_error(NoSuchThread("x " * 1000))

    assert capsys.readouterr().err.count("\n") == 1


def test_process_without_threads_is_shown(piped):
    """It is just ending."""
    text = piped(print_listing, replace(examples.LISTING, threads=(), gil_holder=None), stacks=False)

    assert "0 threads, GIL free" in text


def test_kind_of_build_and_warnings_are_shown(piped):
    """Where there is something to say."""
    listing = replace(examples.LISTING, python=Python("3.13.0", "free-threaded", "python"), warnings=("mind that",))
    text = piped(print_listing, listing, stacks=False)

    assert "CPython 3.13.0 (free-threaded)" in text
    assert "warning: mind that" in text


def test_stacks_are_innermost_first(piped):
    """With a question mark for an unknown line, and words where there are no frames."""
    text = piped(print_listing, examples.LISTING, stacks=True)

    assert "    wait (/usr/lib/python3.12/threading.py:359)\n    new (/app/main.py:?)\n" in text
    assert "thread 4713 (gmain): sleeping, native\n    (no Python state: a native thread)" in text


@pytest.mark.parametrize("outcome", Outcome)
def test_reports_say_the_outcome_and_the_pause(piped, outcome):
    """Each outcome by its word, and how long the thread was stopped."""
    text = piped(print_report, replace(examples.REPORT, outcome=outcome, stack_after=examples.FRAMES))

    assert f"process 4711: {outcome.value}\n" in text
    assert "12.3 ms" in text
    assert "raise (not noticed, 0.100 s), interrupt (ended, 0.200 s)" in text
    assert "the process lives; the GIL goes round" in text
    assert "stack now" in text


def test_plan_says_that_nothing_was_touched(piped):
    """What would be done, in which order, and why."""
    text = piped(print_plan, examples.PLAN)

    assert "nothing was touched" in text
    for fact in ("raise, then interrupt", "TimeoutError", "it runs", "mind the gap", "wait (/usr/lib/"):
        assert fact in text


def test_any_console_will_do():
    """As a program that uses us may make one."""
    console = Console(width=80, force_terminal=True, file=io.StringIO())
    print_listing(console, examples.LISTING, stacks=False)

    assert "4712" in console.file.getvalue()
