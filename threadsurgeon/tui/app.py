"""The live view itself: threads, the log of what was done, keys."""

from __future__ import annotations

import threading
import time
from collections import Counter

from textual import on, work
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.widgets import Footer, Input, RichLog, Static
from textual.worker import get_current_worker

from threadsurgeon.errors import ThreadsurgeonError
from threadsurgeon.model.threads import Listing, Thread
from threadsurgeon.render import describe_free_gil, printable
from threadsurgeon.tui.dialog import OperateDialog
from threadsurgeon.tui.help import HelpScreen
from threadsurgeon.tui.locks import LocksScreen
from threadsurgeon.tui.process import Process
from threadsurgeon.tui.rows import SORT_KEYS, Rows
from threadsurgeon.tui.source import Source
from threadsurgeon.tui.stack import StackScreen
from threadsurgeon.tui.table import Lines, ThreadsTable

# The view may cost this share of a core; between two looks it waits accordingly, but not longer than anyone would.
MOST_CPU_SHARE = 0.015
SHORTEST_WAIT, LONGEST_WAIT = 1.0, 10.0
GIL_SECONDS = 0.1  # between two samples of who holds the GIL


class LiveView(App[None]):
    """All threads of one process, again and again."""

    TITLE = "threadsurgeon attach"
    ENABLE_COMMAND_PALETTE = False
    CSS_PATH = "app.tcss"
    BINDINGS = [
        Binding("c", "operate('cancel')", "Cancel"),
        Binding("k", "operate('kill')", "Kill"),
        Binding("l", "locks", "Locks"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
        Binding("s", "sort", "Sort"),
        Binding("n", "native", "Native"),
        Binding("space", "freeze", "Freeze"),
        Binding("ctrl+c", "quit", show=False, priority=True),
        Binding("escape", "clear_filter", show=False),
    ]

    def __init__(self, process: Process) -> None:
        super().__init__()
        self._process = process
        self._source = Source(process.pid)
        self._rows = Rows()
        self._listing: Listing | None = None
        self._sort = "tid"
        self._native = True
        self._frozen = False
        self._ended = ""
        self._cost = ""
        self._look_now = threading.Event()
        self._gil_percent: dict[int, float] = {}
        # Kept, not searched for: a look may arrive when the screen is gone already.
        self._title = Static(id="title", markup=False)
        self._table = ThreadsTable()
        self._words = Input(id="filter", placeholder="words that stand in a line", compact=True)
        self._log_pane = RichLog(id="log", wrap=True, markup=False, highlight=False)

    def compose(self) -> ComposeResult:
        """Make the parts (textual asks)."""
        yield self._title
        yield self._table
        yield self._words
        yield self._log_pane
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        self._words.display = False
        self._log_pane.display = False
        self._log_pane.can_focus = False
        self._table.lines.focus()
        self._look()

    def on_unmount(self) -> None:
        """End the wait between two looks."""
        self._look_now.set()

    # --- looking ---

    @work(thread=True, group="look")
    def _look(self) -> None:
        worker = get_current_worker()
        while not worker.is_cancelled:
            cpu, began = time.process_time(), time.monotonic()
            if not self._frozen:
                try:
                    listing = self._process.list_threads()
                except ThreadsurgeonError as error:
                    self.call_later(self._show_end, str(error))
                    return
                if worker.is_cancelled:
                    return
                self.call_later(self._take, listing)
            self._wait(cpu, began)

    def _wait(self, cpu: float, began: float) -> None:
        """Wait for as long as keeps our share of a core small, and see meanwhile who holds the GIL."""
        self._look_now.clear()
        holders: Counter[int] = Counter()
        samples = 0
        seconds = spent = 0.0
        until = SHORTEST_WAIT
        while seconds < until:
            if self._look_now.wait(GIL_SECONDS):
                break
            try:
                holders.update(self._process.sample_gil())
            except ThreadsurgeonError:
                break  # the next look finds out why
            samples += 1
            seconds, spent = time.monotonic() - began, time.process_time() - cpu
            if seconds < SHORTEST_WAIT / 2:  # the look, and drawing it; from there on waiting costs its own small share
                until = max(SHORTEST_WAIT, min(LONGEST_WAIT, spent / MOST_CPU_SHARE))
        self._gil_percent = {tid: 100 * seen / samples for tid, seen in holders.items()}
        if seconds:
            self._cost = f"costs {100 * spent / seconds:.1f} %, each {seconds:.1f} s"

    def _take(self, listing: Listing) -> None:
        self._listing = listing
        self._rows.update(listing, time.monotonic(), self._gil_percent)
        self._show()

    def _show(self) -> None:
        self._table.show(self._rows.visible(sort=self._sort, words=self._words.value, native=self._native))
        self._title.update(self._describe())

    def _describe(self) -> str:
        listing = self._listing
        if listing is None:
            return ""
        threads = len(listing.threads)
        native = sum(not thread.python for thread in listing.threads)
        facts = [
            f"process {listing.pid}: CPython {printable(listing.python.version)}, {threads} threads",
            *([f"{native} native{'' if self._native else ' hidden'}"] if native else []),
            f"GIL {listing.gil_holder}" if listing.gil_holder else describe_free_gil(listing),
            *([f"only {self._words.value}"] if self._words.value and not self._words.display else []),
            *([self._cost] if self._cost else []),
            *(["frozen"] if self._frozen else []),
            *([] if self._sort == "tid" else [f"by {self._sort}"]),
        ]
        return printable(self._ended) or " · ".join(facts)

    def _show_end(self, reason: str) -> None:
        self._ended = f"{reason} (q to leave)"
        self._rows.end()
        self._show()

    # --- keys ---

    @property
    def _chosen(self) -> Thread | None:
        if isinstance(self.screen, StackScreen):
            return self.screen.thread
        return self._table.chosen

    @on(Lines.Chosen)
    def action_stack(self) -> None:
        """Show the stack of the chosen thread."""
        thread = self._chosen
        if thread is not None:
            self.push_screen(StackScreen(self._process, thread, self._source))

    def action_operate(self, command: str) -> None:
        """Ask before an operation on the chosen thread."""
        thread = self._chosen
        if thread is None or self._ended:
            self.notify("this thread has ended" if thread is None else self._ended)
            return
        self.push_screen(OperateDialog(self._process, command, thread), self._note)

    def _note(self, verdict: str | None) -> None:
        self._look_now.set()
        if verdict:
            self._log_pane.display = True
            self._log_pane.write(f"{time.strftime('%H:%M:%S')}  {verdict}")

    def action_filter(self) -> None:
        """Let the user type words; only lines that have them all are shown."""
        self._words.display = True
        self._words.focus()

    def action_clear_filter(self) -> None:
        """Show all lines again."""
        self._words.value = ""
        self._words.display = False
        self._table.lines.focus()

    @on(Input.Changed, "#filter")
    def _filter_changed(self) -> None:
        self._show()

    @on(Input.Submitted, "#filter")
    def _filter_entered(self) -> None:
        self._words.display = False
        self._table.lines.focus()
        self._show()

    def action_sort(self) -> None:
        """Sort by the next column."""
        names = list(SORT_KEYS)
        self._sort = names[(names.index(self._sort) + 1) % len(names)]
        self._show()

    def action_native(self) -> None:
        """Hide native threads, or show them."""
        self._native = not self._native
        self._show()

    def action_freeze(self) -> None:
        """Stop looking, or go on."""
        self._frozen = not self._frozen
        self._look_now.set()
        self._show()

    def action_locks(self) -> None:
        """Show who waits for whom."""
        self.push_screen(LocksScreen(self._process))

    def action_help(self) -> None:
        """Show what the keys and columns mean."""
        self.push_screen(HelpScreen())
