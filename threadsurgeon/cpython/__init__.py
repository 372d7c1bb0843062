"""What the interpreter's own memory says. Everything here receives a ``Memory``, never a pid."""
