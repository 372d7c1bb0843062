"""One operation, from its plan to its verdict. Nothing happens before the confirming key."""

from __future__ import annotations

from functools import partial

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Checkbox, Static

from threadsurgeon.errors import ThreadsurgeonError
from threadsurgeon.model.threads import Thread
from threadsurgeon.render import print_error, print_plan, printable
from threadsurgeon.tui.process import Operation, Process
from threadsurgeon.tui.text import capture

# What lets an operation go on that is refused without it.
FLAGS = {
    "cancel": {"--main": "also the main thread"},
    "kill": {
        "--main": "also the main thread",
        "--in-import": "also inside an import",
        "--force": "at last without unwinding",
    },
}


class Box(Checkbox):
    """A box that shows whether it is ticked; textual's own tells it by its colour alone."""

    BUTTON_INNER = " "

    def watch_value(self) -> None:
        """Draw the tick, or none."""
        self.BUTTON_INNER = "X" if self.value else " "
        super().watch_value()


class OperateDialog(ModalScreen[str]):
    """Shows the plan, then what is done, then the verdict; the dialog's result is the verdict's first line, or empty."""

    BINDINGS = [
        Binding("y", "go", "Go ahead"),
        Binding("escape,n", "leave", "Leave it alone"),
        Binding("up", "scroll(-1)", show=False),
        Binding("down", "scroll(1)", show=False),
    ]

    def __init__(self, process: Process, command: str, thread: Thread) -> None:
        super().__init__()
        self._process = process
        self._command = command
        self._thread = thread
        self._operation: Operation | None = None
        self._possible = False
        self._verdict = ""
        self._text = Static("planning…", markup=False)
        self._scroll = VerticalScroll(can_focus=False)
        self._boxes = [Box(f"{flag} ({label})", name=flag, compact=True) for flag, label in FLAGS[command].items()]
        self._leave = Button("Leave it alone (Esc)", id="leave", compact=True)
        self._go = Button(f"{command.capitalize()} the thread (y)", id="go", variant="error", disabled=True, compact=True)

    def compose(self) -> ComposeResult:
        """Make the parts (textual asks)."""
        with Vertical(id="dialog"):
            yield Static(f"{self._command} thread {self._thread.tid}", id="title", markup=False)
            with self._scroll:
                yield self._text
            with Vertical(id="flags"):
                yield from self._boxes
            with Horizontal(id="buttons"):
                yield self._leave
                yield self._go

    def on_mount(self) -> None:
        """Begin with the harmless button, and with the plan."""
        self._leave.focus()
        self._plan()

    @property
    def _flags(self) -> list[str]:
        return [str(box.name) for box in self._boxes if box.value]

    @on(Checkbox.Changed)
    def _plan(self) -> None:
        self._possible = False
        self._go.disabled = True
        self._make_plan(self._flags)

    @work(thread=True, exclusive=True, group="plan")
    def _make_plan(self, flags: list[str]) -> None:
        try:
            plan = self._process.plan(self._command, self._thread, flags)
        except ThreadsurgeonError as error:
            self.call_later(self._show_plan, capture(partial(print_error, error)), False)
        else:
            self.call_later(self._show_plan, capture(partial(print_plan, plan=plan)), True)

    def _show_plan(self, text: str, possible: bool) -> None:
        self._text.update(Text(text))
        self._possible = possible
        self._go.disabled = not possible

    @on(Button.Pressed, "#go")
    def action_go(self) -> None:
        """Do it."""
        if not self._possible or self._operation is not None:
            return
        self._possible = False
        flags = self._flags
        for hidden in (*self._boxes, self._go):
            hidden.display = False
        self._leave.label = "Stop (Esc)"
        self._leave.focus()
        self._text.update("")
        self._run(flags)

    @work(thread=True, group="operation")
    def _run(self, flags: list[str]) -> None:
        try:
            self._operation = self._process.start(self._command, self._thread, flags)
        except ThreadsurgeonError as error:
            self.call_later(self._show_end, [f"Error: {error}"])
            return
        said: list[str] = []
        for line in self._operation.lines():
            said.append(printable(line))
            self.call_later(self._show_progress, list(said))
        self.call_later(self._show_end, said)

    def _show_progress(self, said: list[str]) -> None:
        self._text.update(Text("\n".join(said)))
        self._scroll.scroll_end(animate=False)

    def _show_end(self, said: list[str]) -> None:
        self._show_progress(said)
        verdict = [line for line in said if line.startswith((f"thread {self._thread.tid}", "Error:"))]
        self._verdict = f"{self._command} {self._thread.tid}: {verdict[-1]}" if verdict else f"{self._command}: stopped"
        self._operation = None
        self._leave.label = "Back (Esc)"

    @on(Button.Pressed, "#leave")
    def action_leave(self) -> None:
        """Close; while the operation runs, stop it first."""
        if self._operation is not None:
            self._operation.stop()
        else:
            self.dismiss(self._verdict)

    def action_scroll(self, lines: int) -> None:
        """Scroll the text."""
        self._scroll.scroll_relative(y=lines, animate=False)
