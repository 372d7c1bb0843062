"""``attach``: on a terminal a listing and a prompt, elsewhere a listing."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pexpect
import pytest

from tests.integration.test_list import run
from tests.zoo.pythons import Python
from tests.zoo.victim import Victim, waiting

Start = Callable[..., Victim]
Attach = Callable[..., "Terminal"]

ROOT = Path(__file__).parents[2]
ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """``threadsurgeon attach PID`` on a terminal of 80 columns."""

    def __init__(self, pid: int, environment: dict[str, str]) -> None:
        self.prompt = f"threadsurgeon {pid}> "
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "threadsurgeon", "attach", str(pid)],
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "TERM": "xterm", "LC_ALL": "C.UTF-8", **environment},
            dimensions=(50, 80),
            encoding="utf-8",
            timeout=20,
        )
        self.child.delaybeforesend = None
        self.greeting = self.until_prompt()

    def until_prompt(self) -> str:
        self.child.expect_exact(self.prompt)
        return str(self.child.before).replace("\r", "")

    def say(self, line: str) -> str:
        """Enter one line; return what is written before the next prompt."""
        self.child.sendline(line)
        return self.until_prompt().removeprefix(f"{line}\n")

    def ends(self) -> tuple[int | None, str]:
        """Wait for the end; return the exit status and what was written until then."""
        self.child.expect(pexpect.EOF)
        self.child.close()
        return self.child.exitstatus, str(self.child.before).replace("\r", "")


@pytest.fixture
def attach() -> Iterator[Attach]:
    """Attach to a process on a terminal that is gone when the test is."""

    @contextmanager
    def terminal(victim: Victim, environment: dict[str, str]) -> Iterator[Terminal]:
        terminal = Terminal(victim.pid, environment)
        try:
            yield terminal
        finally:
            terminal.child.close(force=True)

    with ExitStack() as stack:
        yield lambda victim, **environment: stack.enter_context(terminal(victim, environment))


def test_listing_then_commands_then_quit(any_python: Python, stuck: Start, attach: Attach) -> None:
    """The listing comes by itself; ``list`` and ``stack`` as on the command line; after ``quit`` the process goes on."""
    victim = stuck(any_python, "lock")
    terminal = attach(victim)

    assert str(victim.tid) in terminal.greeting
    assert "cancel TID" in terminal.greeting
    assert "WHERE" in terminal.say("list --sort cpu")
    assert f"thread {victim.tid} victim: sleeping" in plain(terminal.say("list --stacks"))
    assert "_bootstrap" in terminal.say(f"stack {victim.tid}")
    assert "_bootstrap" in terminal.say("stack victim")
    assert terminal.say("") == ""
    terminal.child.sendline("quit")
    assert terminal.ends()[0] == 0
    assert not victim.assert_lives_on(unwound=False)["finally_ran"]


@pytest.mark.usefixtures("gdb")
def test_thread_is_cancelled_at_the_prompt(any_python: Python, stuck: Start, attach: Attach) -> None:
    """By name, with the prompt's own process; the next command finds it gone, and the prompt is still there."""
    victim = stuck(any_python, "lock")
    terminal = attach(victim)

    assert "nothing was touched" in terminal.say("cancel victim --dry-run")
    assert "ended" in terminal.say("cancel victim")
    assert "has no thread" in terminal.say(f"kill {victim.tid}")
    assert "victim" not in [line.split()[1] for line in plain(terminal.say("list")).splitlines()]
    victim.assert_lives_on()
    victim.finish()


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("surgery", "no such command: surgery"),
        ("help", "stack TID"),
        ("kill --help", "--grace"),
        ("cancel --help", "--exception"),
        ("list --help", "--sort"),
        ("cancel", "Missing argument"),
        ("cancel --no-such-option 1", "No such option"),
        ("cancel victim --timeout soon", "not a valid float"),
        ("cancel victim --exception NoSuchError", "no builtin exception NoSuchError"),
        ("cancel MainThread", "main thread"),
        ("list 1", "unexpected extra argument (1)"),
        ("stack no-such-thread", "no-such-thread"),
        ("stack 'open quotation", "No closing quotation"),
        ("stack \N{SNOWMAN}", "has no thread"),
    ],
)
def test_whatever_is_typed_is_answered(line: str, answer: str, any_python: Python, stuck: Start, attach: Attach) -> None:
    """Mistakes are explained, and the prompt comes back."""
    victim = stuck(any_python, "lock")
    terminal = attach(victim, NO_COLOR="1")
    text = terminal.say(line)

    assert answer in " ".join(text.split())
    assert "Traceback" not in text
    assert "WHERE" in terminal.say("list")
    assert not victim.assert_lives_on(unwound=False)["finally_ran"]


def test_end_of_input_at_the_prompt_leaves(any_python: Python, stuck: Start, attach: Attach) -> None:
    """Ctrl-D says goodbye, without a traceback."""
    victim = stuck(any_python, "lock")
    terminal = attach(victim)
    terminal.child.sendcontrol("d")
    status, text = terminal.ends()

    assert status == 0
    assert "Traceback" not in text
    assert not victim.assert_lives_on(unwound=False)["finally_ran"]


def test_ctrl_c_at_the_prompt_drops_the_line(any_python: Python, stuck: Start, attach: Attach) -> None:
    """As in other prompts: what was typed is not done, and the next line is."""
    victim = stuck(any_python, "lock")
    terminal = attach(victim)
    terminal.child.send("cancel victim")
    terminal.child.expect_exact("cancel victim")
    terminal.child.sendcontrol("c")
    terminal.until_prompt()

    assert "WHERE" in terminal.say("list")
    assert not victim.assert_lives_on(unwound=False)["finally_ran"]


@pytest.mark.usefixtures("gdb")
def test_ctrl_c_during_an_operation_returns_to_the_prompt(any_python: Python, stuck: Start, attach: Attach) -> None:
    """The thread is let go as it was, and the next command works."""
    victim = stuck(any_python, "ctypes_wait")
    terminal = attach(victim)
    terminal.child.sendline("cancel victim --timeout 100")
    for _ in waiting("the thread is traced"):
        if victim.is_traced_or_stopped():
            break
    terminal.child.sendcontrol("c")
    text = terminal.until_prompt()

    assert "Traceback" not in text
    assert not victim.assert_lives_on(unwound=False)["finally_ran"]
    assert victim.system_call() in victim.behaviour.waits_in
    assert "victim (" in terminal.say("stack victim")
    assert str(victim.tid) in terminal.say("list")


def test_end_of_the_process_is_said(any_python: Python, stuck: Start, attach: Attach) -> None:
    """The next command finds it ended: that is said in words, and the prompt goes with it."""
    victim = stuck(any_python, "lock")
    terminal = attach(victim)
    victim.kill()
    terminal.child.sendline("list")
    status, text = terminal.ends()

    assert status == 0
    assert text.splitlines()[-1] == f"process {victim.pid} has ended"
    assert "Traceback" not in text


def test_terminal_that_goes_away_is_the_end(any_python: Python, stuck: Start, attach: Attach) -> None:
    """A closed window sends SIGHUP: we go, the process stays."""
    victim = stuck(any_python, "lock")
    terminal = attach(victim)
    terminal.child.close(force=False)

    assert not terminal.child.isalive()
    assert terminal.child.signalstatus == signal.SIGHUP
    assert not victim.assert_lives_on(unwound=False)["finally_ran"]


def test_everything_fits_80_columns(any_python: Python, stuck: Start, attach: Attach) -> None:
    """A line a thread, none of them broken by a long name; the TID is never cut."""
    victim = stuck(any_python, "unicode_names")
    terminal = attach(victim)
    lines = plain(terminal.greeting).splitlines()
    rows = [line for line in lines if re.match(r" *\d+ ", line)]

    assert all(len(line) <= 80 for line in lines)
    assert [int(row.split()[0]) for row in rows] == sorted(thread["tid"] for thread in victim.ready["threads"])


def test_colours_can_be_had_and_avoided(any_python: Python, stuck: Start, attach: Attach) -> None:
    """A terminal gets colours; NO_COLOR and a terminal that has none do not."""
    victim = stuck(any_python, "busy_loop")

    assert "\x1b[32mrunning" in attach(victim).greeting
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        colours = COLOURS.findall(attach(victim, **environment).greeting)
        assert not [colour for colour in colours if re.search(r"\b[349]\d\b", colour)]


@pytest.mark.parametrize("command", ["attach", "list"])
def test_without_a_terminal_there_is_one_listing(command: str, any_python: Python, stuck: Start) -> None:
    """In a pipe nothing is asked, cut or coloured; the exit status is 0."""
    victim = stuck(any_python, "lock")
    result = run(command, str(victim.pid))

    assert (result.returncode, result.stderr) == (0, "")
    assert {str(thread["tid"]) for thread in victim.ready["threads"]} <= set(result.stdout.split())
    assert ">" not in result.stdout.splitlines()[-1]
    assert "\x1b" not in result.stdout


def plain(text: str) -> str:
    return ANSI.sub("", text)
