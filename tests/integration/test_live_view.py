"""``attach``: on a terminal the live view, elsewhere a listing. Keys are typed and the screen is read, on a real terminal."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pexpect
import pyte
import pytest

from tests.integration.command import run
from tests.zoo.pythons import Python
from tests.zoo.victim import Victim, VictimFailed, waiting

Start = Callable[..., Victim]
Attach = Callable[..., "Terminal"]

ROOT = Path(__file__).parents[2]
ROW = re.compile(r" *\d+  ")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """``threadsurgeon attach PID`` on a terminal of 80 by 24."""

    def __init__(self, pid: int, size: tuple[int, int] = (24, 80), **environment: str) -> None:
        self.raw = ""
        self._screen = pyte.Screen(size[1], size[0])
        self._stream = pyte.Stream(self._screen)
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "threadsurgeon", "attach", str(pid)],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TERM": "xterm", "LC_ALL": "C.UTF-8", **environment},
            dimensions=size,
            encoding="utf-8",
        )
        self.child.delaybeforesend = None

    def screen(self) -> list[str]:
        """The lines that can be seen now."""
        with suppress(pexpect.TIMEOUT, pexpect.EOF):
            while True:
                text = self.child.read_nonblocking(65536, timeout=0.02)
                self.raw += text
                self._stream.feed(text)
        return list(self._screen.display)

    def shows(self, *words: str) -> list[str]:
        """Wait until all these words stand on the screen."""
        lines: list[str] = []
        try:
            for _ in waiting(f"{words} on the screen"):
                lines = self.screen()
                if all(any(word in line for line in lines) for word in words):
                    break
        except VictimFailed as error:
            raise VictimFailed(f"{error}; there is\n" + "\n".join(lines)) from None
        return lines

    def line_of(self, word: str) -> str:
        """The first line that has the word, as soon as there is one."""
        return next(line for line in self.shows(word) if word in line)

    def rows(self) -> list[str]:
        """The lines of threads that can be seen now."""
        return [line for line in self.screen()[2:-2] if ROW.match(line)]

    def type(self, keys: str) -> None:
        self.child.send(keys)

    def choose(self, tid: int) -> None:
        """Move the cursor to a thread: filter for its TID."""
        self.shows(str(tid))
        self.type("/")
        self.shows("words that stand")
        self.type(f"{tid}")
        self.shows(f"{tid} ")
        self.type("\r")
        for _ in waiting("only that thread is shown"):
            rows = self.rows()
            if len(rows) == 1 and str(tid) in rows[0]:
                break
        self.shows(f"only {tid}")  # the keys are the table's again

    def ends(self) -> int | None:
        """Wait for the end; return the exit status."""
        for _ in waiting("the view ends"):
            self.screen()
            if not self.child.isalive():
                break
        return self.child.exitstatus


@pytest.fixture
def attach() -> Iterator[Attach]:
    """Attach to a process on a terminal that is gone when the test is."""

    @contextmanager
    def terminal(victim: Victim, **options: str) -> Iterator[Terminal]:
        terminal = Terminal(victim.pid, **options)
        try:
            yield terminal
        finally:
            terminal.child.close(force=True)

    with ExitStack() as stack:
        yield lambda victim, **options: stack.enter_context(terminal(victim, **options))


def test_threads_are_shown_and_the_view_is_left(any_python: Python, stuck: Start, attach: Attach) -> None:
    """A line a thread with headings and key hints; q leaves the process alone and the terminal as it was."""
    victim = stuck(any_python, "lock")
    terminal = attach(victim)
    row = terminal.line_of(str(victim.tid))

    assert row.split()[:3] == [str(victim.tid), "victim", "sleeping"]
    lines = terminal.screen()
    assert lines[0].startswith(f"process {victim.pid}: CPython {victim.ready['version']}")
    assert lines[1].split()[:4] == ["TID", "NAME", "STATE", "CPU%"]
    assert "Kill" in terminal.shows("Kill")[-1]
    terminal.type("q")
    assert terminal.ends() == 0
    assert "\x1b[?1049l" in terminal.raw  # back to the screen that was there before
    assert "\x1b[?25h" in terminal.raw[terminal.raw.rindex("\x1b[?1049l") - 200 :]  # the cursor is visible again
    assert not victim.assert_lives_on(unwound=False)["finally_ran"]


def test_stack_with_source_lines(any_python: Python, stuck: Start, attach: Attach) -> None:
    """Enter shows the chosen thread's frames, innermost first, each with the line it is at."""
    victim = stuck(any_python, "lock")
    terminal = attach(victim)
    terminal.choose(victim.tid)
    terminal.type("\r")
    lines = terminal.shows(f"thread {victim.tid} victim", "_bootstrap")

    assert any("self._bootstrap_inner()" in line for line in lines)
    terminal.type("\x1b")
    terminal.shows("WHERE")


@pytest.mark.usefixtures("gdb")
@pytest.mark.parametrize(("key", "kind"), [("c", "lock"), ("k", "ctypes_wait")])
def test_thread_is_ended_after_its_plan(key: str, kind: str, any_python: Python, stuck: Start, attach: Attach) -> None:
    """Nothing happens before the confirming key; then it is done, the verdict is shown, and stays in the log."""
    victim = stuck(any_python, kind)
    terminal = attach(victim)
    terminal.choose(victim.tid)
    terminal.type(key)
    terminal.shows("nothing was touched", "would raise")
    terminal.type("\r")  # the harmless button has the focus
    terminal.shows("WHERE")
    assert not victim.assert_lives_on(unwound=False)["finally_ran"]

    terminal.type(key)
    terminal.shows("nothing was touched")
    terminal.type("y")
    terminal.shows("Back (Esc)", "proof of life")
    terminal.type("\x1b")
    terminal.shows(f" {victim.tid}: thread {victim.tid} victim of process {victim.pid}: ended"[:60])
    victim.assert_lives_on()
    terminal.type("q")
    assert terminal.ends() == 0
    victim.finish()


def test_refusal_shows_its_reason_and_the_flag(any_python: Python, stuck: Start, attach: Attach) -> None:
    """The main thread is not offered; the flag that overrides is a box to tick."""
    victim = stuck(any_python, "lock")
    terminal = attach(victim)
    terminal.choose(victim.pid)
    terminal.type("k")
    terminal.shows("main thread", "--main")
    terminal.type("y")  # not possible
    terminal.shows("--main")
    terminal.type("\x1b")
    terminal.shows("WHERE")
    assert not victim.assert_lives_on(unwound=False)["finally_ran"]


@pytest.mark.usefixtures("gdb")
def test_operation_that_is_stopped_lets_go(any_python: Python, stuck: Start, attach: Attach) -> None:
    """Esc during an operation: the thread is as it was, and the view goes on."""
    victim = stuck(any_python, "ctypes_wait")
    terminal = attach(victim)
    terminal.choose(victim.tid)
    terminal.type("c")
    terminal.shows("nothing was touched")
    terminal.type("y")
    for _ in waiting("the thread is traced"):
        if victim.is_traced_or_stopped():
            break
    terminal.type("\x1b")
    terminal.shows("Back (Esc)")
    terminal.type("\x1b")
    terminal.shows("WHERE")
    assert not victim.assert_lives_on(unwound=False)["finally_ran"]


@pytest.mark.usefixtures("gdb")
def test_terminal_that_goes_away_during_an_operation(any_python: Python, stuck: Start, attach: Attach) -> None:
    """A closed window sends SIGHUP to the view and to its operation: both go, the process is as it was."""
    victim = stuck(any_python, "ctypes_wait")
    terminal = attach(victim)
    terminal.choose(victim.tid)
    terminal.type("c")
    terminal.shows("nothing was touched")
    terminal.type("y")
    for _ in waiting("the thread is traced"):
        if victim.is_traced_or_stopped():
            break
    terminal.child.close(force=False)

    for _ in waiting("nothing of it is left"):
        if not terminal.child.isalive() and not victim.is_traced_or_stopped():
            break
    assert not victim.assert_lives_on(unwound=False)["finally_ran"]


def test_end_of_the_process_is_said(any_python: Python, stuck: Start, attach: Attach) -> None:
    """In words, on the screen as it was; keys still work."""
    victim = stuck(any_python, "lock")
    terminal = attach(victim)
    terminal.shows(str(victim.tid))
    victim.kill()
    terminal.shows("q to leave")
    terminal.type("k")
    terminal.type("q")

    assert terminal.ends() == 0
    assert "Traceback" not in terminal.raw


@pytest.mark.parametrize("key", ["\x03", "q"])
def test_keys_that_leave(key: str, any_python: Python, stuck: Start, attach: Attach) -> None:
    victim = stuck(any_python, "lock")
    terminal = attach(victim)
    terminal.shows(str(victim.tid))
    terminal.type(key)

    assert terminal.ends() == 0
    assert not victim.assert_lives_on(unwound=False)["finally_ran"]


def test_terminal_that_changes_its_size(any_python: Python, stuck: Start, attach: Attach) -> None:
    """What there is room for is shown; small sizes are no error."""
    victim = stuck(any_python, "lock")
    terminal = attach(victim)
    terminal.shows(str(victim.tid))
    for rows, columns in ((10, 40), (2, 10), (50, 200)):
        terminal.child.setwinsize(rows, columns)
        terminal._screen.resize(rows, columns)
        terminal.screen()
    terminal.shows(str(victim.tid), "WHERE")
    terminal.type("q")
    assert terminal.ends() == 0


def test_colours_can_be_avoided(any_python: Python, stuck: Start, attach: Attach) -> None:
    """NO_COLOR leaves shades of grey."""
    victim = stuck(any_python, "busy_loop")
    terminal = attach(victim, NO_COLOR="1", COLORTERM="truecolor")
    terminal.line_of(str(victim.tid))

    shades = {match for code in COLOURS.findall(terminal.raw) for match in re.findall(r"[34]8;2;(\d+);(\d+);(\d+)", code)}
    assert all(len(set(map(int, shade))) == 1 for shade in shades)


def test_unpleasant_names_are_shown_and_not_obeyed(any_python: Python, stuck: Start, attach: Attach) -> None:
    """A line a thread, none of them broken by a name."""
    victim = stuck(any_python, "unicode_names")
    terminal = attach(victim)
    terminal.shows(str(victim.tid))
    rows = terminal.rows()

    assert [int(row.split()[0]) for row in rows] == sorted(thread["tid"] for thread in victim.ready["threads"])


@pytest.mark.usefixtures("gdb")
def test_in_tmux(any_python: Python, stuck: Start, tmp_path: Path) -> None:
    """The same keys and the same screen in a terminal multiplexer."""
    if shutil.which("tmux") is None:
        pytest.skip("there is no tmux here")
    victim = stuck(any_python, "lock")
    tmux = ["tmux", "-L", f"threadsurgeon-{os.getpid()}", "-f", "/dev/null"]
    command = f"{sys.executable} -m threadsurgeon attach {victim.pid}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}
    subprocess.run([*tmux, "new-session", "-d", "-x", "80", "-y", "24", command], env=environment, check=True)

    def shows(*words: str) -> None:
        seen = ""
        try:
            for _ in waiting(f"{words} in tmux", pause=0.05):
                seen = subprocess.run([*tmux, "capture-pane", "-p"], capture_output=True, text=True, check=False).stdout
                if all(word in seen for word in words):
                    return
        except VictimFailed as error:
            raise VictimFailed(f"{error}; there is\n{seen}") from None

    def press(*keys: str) -> None:
        subprocess.run([*tmux, "send-keys", *keys], check=True)

    try:
        shows(str(victim.tid), "WHERE")
        press("/")
        shows("words that stand")
        press(str(victim.tid), "Enter")
        shows(f"only {victim.tid}")
        press("c")
        shows("nothing was touched")
        press("y")
        shows("proof of life")
        press("Escape")
        shows(f"cancel {victim.tid}: thread")
        press("q")
        victim.assert_lives_on()
    finally:
        subprocess.run([*tmux, "kill-server"], capture_output=True, check=False)
    victim.finish()


@pytest.mark.parametrize("command", ["attach", "list"])
def test_without_a_terminal_there_is_one_listing(command: str, any_python: Python, stuck: Start) -> None:
    """In a pipe nothing is asked, cut or coloured; the exit status is 0."""
    victim = stuck(any_python, "lock")
    result = run(command, str(victim.pid))

    assert (result.returncode, result.stderr) == (0, "")
    assert {str(thread["tid"]) for thread in victim.ready["threads"]} <= set(result.stdout.split())
    assert ">" not in result.stdout.splitlines()[-1]
    assert "\x1b" not in result.stdout


def test_dumb_terminal_gets_one_listing(any_python: Python, stuck: Start, attach: Attach) -> None:
    """As where there is no terminal."""
    victim = stuck(any_python, "lock")
    terminal = attach(victim, TERM="dumb")

    assert terminal.ends() == 0
    assert str(victim.tid) in terminal.raw
