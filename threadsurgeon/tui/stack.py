"""The stack of one thread, as it changes."""

from __future__ import annotations

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer, Static
from textual.worker import get_current_worker

from threadsurgeon.errors import ThreadsurgeonError
from threadsurgeon.model.threads import Frame, Thread
from threadsurgeon.render import printable
from threadsurgeon.tui.process import Process
from threadsurgeon.tui.rows import describe_name
from threadsurgeon.tui.source import Source

LOOK_SECONDS = 0.5


class StackScreen(Screen[None]):
    """Frames innermost first, with their source lines where the target's files can be read; what changed is marked."""

    BINDINGS = [
        Binding("escape,q", "app.pop_screen", "Back"),
        Binding("c", "app.operate('cancel')", "Cancel thread"),
        Binding("k", "app.operate('kill')", "Kill thread"),
        Binding("space", "freeze", "Freeze"),
    ]

    def __init__(self, process: Process, thread: Thread, source: Source) -> None:
        super().__init__()
        self.thread = thread
        self._process = process
        self._source = source
        self._frozen = False
        self._title = Static(id="title", markup=False)
        self._scroll = VerticalScroll()
        self._text = Static(markup=False)

    def compose(self) -> ComposeResult:
        """Make the parts (textual asks)."""
        yield self._title
        with self._scroll:
            yield self._text
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        self._show(self.thread, self.thread.frames)
        self._scroll.focus()
        self.set_interval(LOOK_SECONDS, self._look)

    def action_freeze(self) -> None:
        """Stop looking, or go on."""
        self._frozen = not self._frozen

    @work(thread=True, exclusive=True, group="stack")
    def _look(self) -> None:
        if self._frozen or not self.thread.python:
            return
        try:
            now = self._process.see(self.thread)
        except ThreadsurgeonError as error:
            self._frozen = True
            self.call_later(self._show_end, str(error))
            return
        if not get_current_worker().is_cancelled:
            self.call_later(self._show, now, self.thread.frames)

    def _show(self, thread: Thread, before: tuple[Frame, ...]) -> None:
        self.thread = thread
        self._title.update(f"thread {thread.tid} {describe_name(thread)}: {thread.state}")
        self._text.update(self._describe(thread, before))

    def _show_end(self, reason: str) -> None:
        self._title.update(printable(reason))

    def _describe(self, thread: Thread, before: tuple[Frame, ...]) -> Text:
        text = Text()
        if thread.waits_for:
            text.append(f"{printable(thread.waits_for.text)}\n", "cyan")
        if not thread.frames:
            text.append("no Python frames" if thread.python else "no Python state: a native thread")
        for number, frame in enumerate(thread.frames, -len(thread.frames)):
            # Counted from the outermost: a stack grows and shrinks at its other end.
            changed = number < -len(before) or before[number] != frame
            text.append("● " if changed else "  ", "yellow")
            text.append(printable(frame.function), "bold yellow" if changed else "bold")
            text.append(printable(f"  {frame.file}:{frame.line if frame.line is not None else '?'}"), "dim")
            line = self._source.line(frame.file, frame.line)
            text.append(f"\n      {printable(line)}\n" if line else "\n", "cyan")
        return text
