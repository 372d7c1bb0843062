"""What the keys and columns mean."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

TEXT = """\
The process is only looked at. Nothing is done to it before you confirm it with y.

  ↑ ↓ PgUp PgDn  choose a thread       Enter  its stack, as it changes
  c  cancel      raise an exception in it, also where it waits
  k  kill        the same, then by harder means, each after the gentler ones failed
  l  locks       who waits for what, who holds it, deadlocks
  /  filter      only lines that have these words; Esc shows all
  s  sort        by TID, CPU, GIL, name, state
  n  native      hide or show threads without Python state
  space  freeze  stop looking, or go on
  ?  help        this page
  q  Ctrl-C      leave; the process goes on

  CPU%   of one core, since the last look; beside it the last looks as bars
  GIL%   how often it was seen holding the GIL since the last look
  WHERE  the innermost Python frame, after what the thread waits for in it

Threads that have ended are struck out for a moment. The line at the top says what the
view costs, in percent of one core.
"""


class HelpScreen(ModalScreen[None]):
    """A page that any of the usual keys closes."""

    BINDINGS = [Binding("escape,q,question_mark,enter", "dismiss", "Back")]

    def compose(self) -> ComposeResult:
        """Make the parts (textual asks)."""
        with VerticalScroll(id="dialog"):
            yield Static(TEXT, markup=False)
