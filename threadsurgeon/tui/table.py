"""The table of threads. Draws only the lines that are in sight: a process may have ten thousand threads."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Static

from threadsurgeon.model.threads import Thread
from threadsurgeon.tui.rows import COLUMNS, HISTORY, Row

# Cells a column; the last takes what is left.
WIDTHS = {"TID": 8, "NAME": 20, "STATE": 8, "CPU%": 5, "CPU": HISTORY, "GIL%": 4}
RIGHT = {"TID", "CPU%", "GIL%"}
GAP = "  "


class Lines(ScrollView, can_focus=True):
    """The lines below the headings; one of them is under the cursor.

    textual's own DataTable draws every line anew when one cell changed, 38 ms for 24 lines: more than all the looking.
    """

    BINDINGS = [
        Binding("enter", "choose", "Stack"),
        Binding("up", "move(-1)", show=False),
        Binding("down", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home", "first", show=False),
        Binding("end", "last", show=False),
    ]

    class Chosen(Message):
        """Enter, or a click on the line under the cursor."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: Sequence[Row] = ()
        self._cursor = 0

    @property
    def chosen(self) -> Row | None:
        """The line under the cursor."""
        return self._rows[self._cursor] if self._rows else None

    def show(self, rows: Sequence[Row]) -> None:
        """Show these lines in this order; the cursor stays on its thread as long as it is shown."""
        before = self.chosen
        self._rows = rows
        self._cursor = min(self._cursor, max(0, len(rows) - 1))
        if before is not None:
            self._cursor = next((n for n, row in enumerate(rows) if row.key == before.key), self._cursor)
        self.virtual_size = Size(self.size.width, len(rows))
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draw one line in sight (textual asks)."""
        number = y + round(self.scroll_offset.y)
        style = self.rich_style
        if number >= len(self._rows):
            return Strip.blank(self.size.width, style)
        row = self._rows[number]
        if number == self._cursor:
            style += Style(reverse=True, bold=self.has_focus)
        segments = [Segment(text, style + _style(row, column)) for column, text in fit(row.cells)]
        return Strip(segments).adjust_cell_length(self.size.width, style)

    def action_move(self, lines: int) -> None:
        """Move the cursor."""
        self._go(self._cursor + lines)

    def action_page(self, pages: int) -> None:
        """Move the cursor by a screenful."""
        self._go(self._cursor + pages * max(1, self.size.height - 1))

    def action_first(self) -> None:
        """Move the cursor to the first line."""
        self._go(0)

    def action_last(self) -> None:
        """Move the cursor to the last line."""
        self._go(len(self._rows) - 1)

    def action_choose(self) -> None:
        """Ask for the stack of the thread under the cursor."""
        if self._rows:
            self.post_message(self.Chosen())

    def on_click(self, event: events.Click) -> None:
        """Move the cursor there; on the line under the cursor it is as Enter."""
        number = event.y + round(self.scroll_offset.y)
        if number == self._cursor:
            self.action_choose()
        elif number < len(self._rows):
            self._go(number)

    def _go(self, number: int) -> None:
        self._cursor = min(max(0, number), max(0, len(self._rows) - 1))
        self.scroll_to_region(Region(0, self._cursor, 1, 1), animate=False)
        self.refresh()


class ThreadsTable(Vertical):
    """Headings and lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = Lines()

    def compose(self) -> ComposeResult:
        """Make the parts (textual asks)."""
        yield Static("".join(text for _, text in fit(COLUMNS)), id="headings", markup=False)
        yield self.lines

    @property
    def chosen(self) -> Thread | None:
        """The thread under the cursor, if it has not ended."""
        row = self.lines.chosen
        return None if row is None or row.ended else row.thread

    def show(self, rows: Sequence[Row]) -> None:
        """Show these lines in this order."""
        self.lines.show(rows)


def fit(cells: Sequence[str]) -> list[tuple[str, str]]:
    """Return (column, text) for each column, as wide as its column is."""
    fitted = []
    for column, cell in zip(COLUMNS, cells, strict=True):
        cells_wide = WIDTHS.get(column)
        if cells_wide is None:
            fitted.append((column, cell))
            continue
        if column in RIGHT:
            text = cell.rjust(cells_wide)
        elif cell_len(cell) > cells_wide:
            text = set_cell_size(cell, cells_wide - 1) + "…"
        else:
            text = set_cell_size(cell, cells_wide)  # some characters are two cells wide, some none
        fitted.append((column, text + GAP))
    return fitted


def _style(row: Row, column: str) -> Style:
    if row.ended:
        return Style(dim=True, strike=True)
    if column == "NAME" and row.thread.holds_gil:
        return Style(bold=True, color="yellow")
    if column == "STATE" and row.thread.state == "running":
        return Style(color="green")
    return Style(dim=not row.thread.python)
