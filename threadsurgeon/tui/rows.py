"""What the table shows of each thread, from one look to the next. Knows nothing of a terminal."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from threadsurgeon.model.threads import Listing, Thread
from threadsurgeon.render import printable

HISTORY = 6  # looks
FADING = 3  # looks for which a thread that ended is still shown
BARS = " ▁▂▃▄▅▆▇█"

COLUMNS = ("TID", "NAME", "STATE", "CPU%", "CPU", "GIL%", "WAITS FOR, WHERE")
SORT_KEYS: dict[str, Callable[[Row], object]] = {
    "tid": lambda row: (not row.thread.main, row.thread.tid),
    "cpu": lambda row: (-(row.cpu_percent or 0.0), -(row.thread.cpu_seconds or 0.0), row.thread.tid),
    "gil": lambda row: (-row.gil_percent, row.thread.tid),
    "name": lambda row: (row.thread.name is None, row.thread.name or row.thread.native_name, row.thread.tid),
    "state": lambda row: (row.thread.state != "running", row.thread.state, row.thread.tid),
}


class Row(NamedTuple):
    """One line of the table. ``ended``: the thread is gone."""

    thread: Thread
    cpu_percent: float | None
    history: tuple[float, ...]
    gil_percent: float
    ended: bool = False

    @property
    def key(self) -> str:
        """What names the thread for as long as the view is there: TIDs are reused."""
        return f"{self.thread.tid}/{self.thread.start_time}"

    @property
    def cells(self) -> tuple[str, ...]:
        """The text of each of ``COLUMNS``."""
        thread = self.thread
        return (
            str(thread.tid),
            describe_name(thread),
            "ended" if self.ended else thread.state,
            "-" if self.cpu_percent is None else f"{self.cpu_percent:.0f}",
            "".join(_bar(percent) for percent in self.history).rjust(HISTORY),
            f"{self.gil_percent:.0f}" if thread.python else "",
            " · ".join(filter(None, [printable(thread.waits_for.detail) if thread.waits_for else "", _where(thread)])),
        )

    def matches(self, words: str) -> bool:
        """Whether each of the words stands somewhere in the line."""
        text = " ".join(self.cells).lower()
        return all(word in text for word in words.lower().split())


class _Past(NamedTuple):
    """What is remembered of a thread."""

    row: Row
    at: float
    ended_looks: int


class Rows:
    """The threads of one process, with what earlier looks saw of them."""

    def __init__(self) -> None:
        self._past: dict[tuple[int, int], _Past] = {}

    def update(self, listing: Listing, now: float, gil_percent: dict[int, float]) -> None:
        """Take in a look made at ``now`` (monotonic, seconds). ``gil_percent``: by the TID that the target itself sees."""
        past, self._past = self._past, {}
        for thread in listing.threads:
            key = (thread.tid, thread.start_time)
            before = past.pop(key, None)
            percent = thread.cpu_percent
            history: deque[float] = deque(maxlen=HISTORY)
            if before is not None:
                history.extend(before.row.history)
                if now > before.at:
                    percent = 100 * ((thread.cpu_seconds or 0.0) - (before.row.thread.cpu_seconds or 0.0)) / (now - before.at)
            history.append(percent or 0.0)
            row = Row(thread, percent, tuple(history), gil_percent.get(thread.namespace_tid, 0.0))
            self._past[key] = _Past(row, now, 0)
        for key, gone in past.items():
            if gone.ended_looks < FADING:
                self._past[key] = _Past(gone.row._replace(ended=True, cpu_percent=None), gone.at, gone.ended_looks + 1)

    def end(self) -> None:
        """The process has ended, and all its threads with it."""
        self._past = {key: past._replace(row=past.row._replace(ended=True)) for key, past in self._past.items()}

    def visible(self, *, sort: str = "tid", words: str = "", native: bool = True) -> list[Row]:
        """Return the lines to show, in their order."""
        rows = [
            past.row
            for past in self._past.values()
            if (native or past.row.thread.python) and (not words or past.row.matches(words))
        ]
        return sorted(rows, key=SORT_KEYS[sort])  # type: ignore[arg-type]  # each key compares with its own kind


def describe_name(thread: Thread) -> str:
    """Return a thread's name, and in brackets what else there is to know of it."""
    name = thread.name if thread.name is not None else f"({thread.native_name})"
    notes = [
        note
        for note, is_so in (
            ("GIL", thread.holds_gil),
            ("main", thread.main and name != "MainThread"),
            ("pool", thread.pool_worker),
            ("native", not thread.python),
        )
        if is_so
    ]
    return printable(name) + (f" [{', '.join(notes)}]" if notes else "")


def _where(thread: Thread) -> str:
    if not thread.frames:
        return ""
    frame = thread.frames[0]
    return printable(f"{frame.function} ({os.path.basename(frame.file)}:{frame.line if frame.line is not None else '?'})")


def _bar(percent: float) -> str:
    return BARS[min(len(BARS) - 1, round(max(0.0, percent) / 100 * (len(BARS) - 1)) or (1 if percent >= 1 else 0))]
