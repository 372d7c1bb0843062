"""Who waits for what, and who holds it."""

from __future__ import annotations

from functools import partial

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer, Static

from threadsurgeon.errors import ThreadsurgeonError
from threadsurgeon.render import print_error, print_locks
from threadsurgeon.tui.process import Process
from threadsurgeon.tui.text import capture


class LocksScreen(Screen[None]):
    """The wait-for graph of one moment, as ``threadsurgeon locks`` tells it."""

    BINDINGS = [Binding("escape,q,l", "app.pop_screen", "Back"), Binding("r", "look", "Look again")]

    def __init__(self, process: Process) -> None:
        super().__init__()
        self._process = process
        self._text = Static("looking…", markup=False)

    def compose(self) -> ComposeResult:
        """Make the parts (textual asks)."""
        with VerticalScroll():
            yield self._text
        yield Footer()

    def on_mount(self) -> None:
        """Look once: a graph that changes while it is read is of no use."""
        self.action_look()

    @work(thread=True, exclusive=True, group="locks")
    def action_look(self) -> None:
        """Look again."""
        try:
            text = capture(partial(print_locks, graph=self._process.find_locks()))
        except ThreadsurgeonError as error:
            text = capture(partial(print_error, error))
        self.call_later(self._text.update, text)
