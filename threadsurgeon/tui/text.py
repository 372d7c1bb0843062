"""What the command line prints, as text for a widget."""

from __future__ import annotations

import io
from collections.abc import Callable

from rich.console import Console

WIDTH = 10_000  # widgets fold lines themselves


def capture(write: Callable[[Console], None]) -> str:
    """Return what is written to the console that ``write`` gets."""
    stream = io.StringIO()
    write(Console(file=stream, width=WIDTH, highlight=False, emoji=False, soft_wrap=True))
    return stream.getvalue().rstrip()
