"""The live view with a process that is played: keys in, text on the screen out."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from textual.pilot import Pilot

from tests.unit import examples
from threadsurgeon.errors import NoSuchProcess, NoSuchThread, Refused
from threadsurgeon.model.locks import WaitGraph
from threadsurgeon.model.threads import Frame
from threadsurgeon.tui.app import LiveView
from threadsurgeon.tui.rows import FADING, Rows
from threadsurgeon.tui.source import Source
from threadsurgeon.tui.stack import StackScreen

MAIN, WAITING, NATIVE = examples.LISTING.threads


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch):
    """A test has no time to spare for a target's sake."""
    monkeypatch.setattr("threadsurgeon.tui.app.SHORTEST_WAIT", 0.5)
    monkeypatch.setattr("threadsurgeon.tui.app.LONGEST_WAIT", 0.5)
    monkeypatch.setattr("threadsurgeon.tui.stack.LOOK_SECONDS", 0.3)


class PlayedOperation:
    def __init__(self, said):
        self.said = said
        self.stopped = False

    def lines(self):
        yield from self.said

    def stop(self):
        self.stopped = True


class PlayedProcess:
    """Has the threads of ``examples.LISTING``, and remembers what was asked of it."""

    pid = 4711

    def __init__(self, threads=examples.LISTING.threads):
        self.threads = list(threads)
        self.asked = []
        self.error = None
        self.looks = 0

    def list_threads(self):
        self.looks += 1
        if self.error:
            raise self.error
        return examples.LISTING._replace(threads=tuple(self.threads))

    def sample_gil(self):
        if self.error:
            raise self.error
        return [4712]

    def find_locks(self):
        return WaitGraph(4711, (MAIN, WAITING), (), (), (), ())

    def see(self, thread):
        with suppress(StopIteration):
            return next(now for now in self.threads if now.tid == thread.tid)
        raise NoSuchThread(f"thread {thread.tid} has ended")

    def plan(self, command, thread, flags):
        self.asked.append(("plan", command, thread.tid, tuple(flags)))
        if thread.main and "--main" not in flags:
            raise Refused("it is the main thread", hint="--main")
        return examples.PLAN

    def start(self, command, thread, flags):
        self.asked.append(("start", command, thread.tid, tuple(flags)))
        return PlayedOperation(["raise: tried", f"thread {thread.tid} worker of process 4711: ended", "  seen  it is gone"])


class Screen:
    """What a test does: press keys, and wait for what stands on the screen."""

    def __init__(self, app: LiveView, pilot: Pilot[None]) -> None:
        self.app = app
        self._pilot = pilot

    @property
    def lines(self) -> list[str]:
        return [
            "".join(segment.text for segment in line).rstrip()
            for line in self.app.screen._compositor.render_strips()
        ]

    async def press(self, *keys: str) -> None:
        await self._pilot.press(*keys)

    async def shows(self, *words: str, not_: str = "\0") -> list[str]:
        for _ in range(1000):
            lines = self.lines
            text = "\n".join(lines)
            if all(word in text for word in words) and not_ not in text:
                return lines
            await asyncio.sleep(0.01)
        raise AssertionError(f"{words} not shown, or {not_!r} shown:\n{text}")


Script = Callable[[Screen], Awaitable[None]]


def play(process: PlayedProcess, script: Script, size: tuple[int, int] = (100, 24)) -> None:
    async def run() -> None:
        app = LiveView(process)
        async with app.run_test(size=size) as pilot:
            await script(Screen(app, pilot))

    asyncio.run(run())


def test_first_screen():
    """One line a thread under its headings, what the process is above, the keys below."""

    async def script(screen):
        lines = await screen.shows("4713", "Quit")
        assert lines[0].startswith("process 4711: CPython 3.12.1, 3 threads · 1 native · GIL 4712")
        assert lines[1].split() == ["TID", "NAME", "STATE", "CPU%", "CPU", "GIL%", "WAITS", "FOR,", "WHERE"]
        assert [line.split()[:3] for line in lines[2:5]] == [
            ["4711", "MainThread", "sleeping"],
            ["4712", "worker", "[GIL,"],
            ["4713", "(gmain)", "[native]"],
        ]
        assert "wait (threading.py:359)" in lines[3]

    play(PlayedProcess(), script)


SCREENS = {
    "threads": ((), "4713"),
    "stack": (("down", "enter"), "thread 4712 worker"),
    "plan": (("down", "k"), "nothing was touched"),
    "refusal": (("c",), "Hint: --main"),
    "help": (("question_mark",), "this page"),
}


@pytest.mark.parametrize("name", SCREENS)
def test_screens_are_as_they_were(name):
    """Whole screens of 80 by 24 as text; after a change that is meant, delete the file and run the test twice."""
    keys, shown = SCREENS[name]
    file = Path(__file__).parent / "screens" / f"{name}.txt"

    async def script(screen):
        await screen.shows("4713")
        await screen.press(*keys)
        await screen.shows(shown)
        expected = file.read_text() if file.exists() else None
        for _ in range(100):  # it may not be painted to the end yet
            text = "\n".join(screen.lines[1:]) + "\n"  # the first line says what looking costs
            if text == expected:
                return
            await asyncio.sleep(0.02)
        if expected is None:
            file.write_text(text)
        assert text == expected

    process = PlayedProcess()
    process.sample_gil = list  # a share that does not depend on when it is looked
    play(process, script, (80, 24))


@pytest.mark.parametrize("size", [(80, 24), (40, 10), (20, 5), (300, 100)])
def test_every_size_shows_a_thread(size):
    """Nothing is wrapped, and nothing fails, on a small screen."""

    async def script(screen):
        lines = await screen.shows("4711")
        assert len(lines) == size[1]

    play(PlayedProcess(), script, size)


def test_enter_shows_the_stack_and_marks_what_changes():
    process = PlayedProcess()

    async def script(screen):
        await screen.shows("4712")
        await screen.press("down", "enter")
        lines = await screen.shows("thread 4712 worker")
        assert "●" not in "".join(lines)
        process.threads[1] = WAITING._replace(frames=(Frame("recv", "/app/net.py", 5), *WAITING.frames))
        await screen.shows("● recv  /app/net.py:5")
        process.threads.pop(1)
        await screen.shows("thread 4712 has ended")
        await screen.press("escape")
        await screen.shows("WHERE")

    play(process, script)


@pytest.mark.parametrize(("key", "command"), [("c", "cancel"), ("k", "kill")])
def test_nothing_happens_without_the_confirming_key(key, command):
    """The plan is shown; Enter presses the harmless button, and so does every way out."""
    process = PlayedProcess()

    async def script(screen):
        await screen.shows("4712")
        await screen.press("down")
        for leave in ("enter", "escape", "n"):
            await screen.press(key)
            await screen.shows("nothing was touched", examples.PLAN.reason[:10])
            await screen.press(leave)
            await screen.shows("WHERE")
        assert ("plan", command, 4712, ()) in process.asked
        assert not [asked for asked in process.asked if asked[0] == "start"]
        await screen.press(key)
        await screen.shows("nothing was touched")
        await screen.press("y")
        await screen.shows("raise: tried", "ended", "Back (Esc)")
        await screen.press("escape")
        await screen.shows(f"{command} 4712: thread 4712 worker of process 4711: ended", "WHERE")
        assert [asked for asked in process.asked if asked[0] == "start"] == [("start", command, 4712, ())]

    play(process, script)


def test_refusal_shows_its_flag_and_ticking_it_plans_anew():
    process = PlayedProcess()

    async def script(screen):
        await screen.shows("4711")
        await screen.press("k")
        await screen.shows("Error: it is the main thread", "Hint: --main")
        await screen.press("y")
        assert not [asked for asked in process.asked if asked[0] == "start"]
        await screen.press("shift+tab", "shift+tab", "shift+tab", "space")
        await screen.shows("nothing was touched")
        await screen.press("y")
        await screen.shows("Back (Esc)")
        assert process.asked[-1] == ("start", "kill", 4711, ("--main",))

    play(process, script)


def test_filter_as_you_type():
    async def script(screen):
        await screen.shows("4713")
        await screen.press("slash", *"wor")
        await screen.shows("4712", not_="4711 ")
        await screen.press("enter")
        await screen.shows("only wor")
        await screen.press("escape")
        await screen.shows("4711 ", "4713", not_="only wor")

    play(PlayedProcess(), script)


def test_native_threads_are_hidden_and_shown():
    async def script(screen):
        await screen.shows("4713")
        await screen.press("n")
        await screen.shows("native hidden", not_="4713")
        await screen.press("n")
        await screen.shows("4713")

    play(PlayedProcess(), script)


def test_freeze_stops_looking():
    process = PlayedProcess()

    async def script(screen):
        await screen.shows("4713")
        await screen.press("space")
        await screen.shows("frozen")
        looks = process.looks
        process.threads.pop()
        await asyncio.sleep(1.2)
        assert process.looks <= looks + 1  # one may have been on its way
        await screen.press("space")
        await screen.shows("ended", not_="frozen")

    play(process, script)


def test_end_of_the_process_is_shown_and_nothing_is_offered_any_more():
    process = PlayedProcess()

    async def script(screen):
        await screen.shows("4713")
        process.error = NoSuchProcess("process 4711 ended")
        await screen.shows("process 4711 ended (q to leave)")
        await screen.press("k")
        await screen.press("question_mark")
        await screen.shows("Enter  its stack")
        assert process.asked == []

    play(process, script)


def test_share_of_the_gil():
    async def script(screen):
        await screen.shows("4712")
        for _ in range(100):
            row = next(line for line in screen.lines if "4712" in line and "worker" in line)
            if " 100 " in row:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(row)

    play(PlayedProcess(), script)


def test_locks_and_back():
    async def script(screen):
        await screen.shows("4712")
        await screen.press("l")
        await screen.shows("process 4711", "Look again")
        await screen.press("escape")
        await screen.shows("WHERE")

    play(PlayedProcess(), script)


def test_help_names_every_key_of_the_footer():
    async def script(screen):
        await screen.shows("4711")
        bindings = [b for b in LiveView.BINDINGS if b.show]
        await screen.press("question_mark")
        text = "\n".join(await screen.shows("this page"))
        for binding in bindings:
            assert (binding.key_display or binding.key) in text

    play(PlayedProcess(), script, (100, 40))


def test_mouse_chooses_and_opens():
    async def script(screen):
        await screen.shows("4712")
        await screen._pilot.click("Lines", offset=(3, 1))
        await screen._pilot.click("Lines", offset=(3, 1))
        await screen.shows("thread 4712 worker")
        assert isinstance(screen.app.screen, StackScreen)

    play(PlayedProcess(), script)


class TestRows:
    def test_cpu_is_what_was_used_between_two_looks(self):
        rows = Rows()
        rows.update(examples.LISTING, 10.0, {})
        more = WAITING._replace(cpu_seconds=WAITING.cpu_seconds + 1.0)
        rows.update(examples.LISTING._replace(threads=(MAIN, more)), 12.0, {more.tid: 25.0})
        row = next(row for row in rows.visible() if row.thread.tid == more.tid)

        assert row.cpu_percent == pytest.approx(50.0)
        assert row.gil_percent == 25.0
        assert len(row.history) == 2

    def test_ended_threads_stay_for_a_moment(self):
        rows = Rows()
        rows.update(examples.LISTING, 0.0, {})
        only_main = examples.LISTING._replace(threads=(MAIN,))
        for look in range(FADING):
            rows.update(only_main, look + 1.0, {})
            assert [row.ended for row in rows.visible()] == [False, True, True]
        rows.update(only_main, FADING + 1.0, {})
        assert [row.ended for row in rows.visible()] == [False]

    def test_reused_tid_is_another_thread(self):
        rows = Rows()
        rows.update(examples.LISTING, 0.0, {})
        again = WAITING._replace(start_time=WAITING.start_time + 1, cpu_seconds=0.0)
        rows.update(examples.LISTING._replace(threads=(MAIN, again, NATIVE)), 1.0, {})

        assert sorted((row.thread.tid, row.ended) for row in rows.visible()) == [
            (4711, False),
            (4712, False),
            (4712, True),
            (4713, False),
        ]

    @pytest.mark.parametrize(("sort", "first"), [("tid", 4711), ("cpu", 4712), ("gil", 4713), ("name", 4711), ("state", 4712)])
    def test_sorting(self, sort, first):
        rows = Rows()
        rows.update(examples.LISTING, 0.0, {4713: 3.0})

        assert rows.visible(sort=sort)[0].thread.tid == first


class TestSource:
    def test_line_of_a_file(self, tmp_path):
        file = tmp_path / "app.py"
        file.write_text("one\n    two\n")
        source = Source(os.getpid())

        assert source.line(str(file), 2) == "two"
        assert source.line(str(file), 3) == source.line(str(file), None) == source.line(str(file), 0) == ""

    def test_what_is_no_file_of_lines_has_none(self, tmp_path):
        """A FIFO would wait, a device would act, a name may be anything."""
        fifo = tmp_path / "fifo.py"
        os.mkfifo(fifo)
        source = Source(os.getpid())

        for name in (str(fifo), "/dev/zero", str(tmp_path), "/nonexistent", "<string>", "", "a\0b", "x" * 10_000):
            assert source.line(name, 1) == ""
