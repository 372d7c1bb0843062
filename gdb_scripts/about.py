"""``-ts-about``: which gdb this is. The session asks first, to know that everything is in place."""

from __future__ import annotations

import platform
from typing import Any

import gdb

from .command import command


@command("-ts-about")
def about() -> dict[str, Any]:
    """Return the versions of gdb and of the Python in it."""
    return {"gdb": gdb.VERSION, "python": platform.python_version()}
