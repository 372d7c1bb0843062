"""Finds the gdbs of this machine that all other tests do not use: those use the one that is first on PATH."""

from __future__ import annotations

import functools
import glob
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Gdb:
    """One gdb with Python. ``folder``: to be put first on PATH; ``version``: what it calls itself there."""

    folder: str
    version: str

    def __str__(self) -> str:
        return self.version.replace(" ", "-")


@functools.cache
def others() -> tuple[Gdb, ...]:
    """Every other gdb with Python, whatever its version, each once."""
    first = shutil.which("gdb")
    seen = {os.path.realpath(first)} if first else set()
    gdbs = []
    for path in _candidates():
        if os.access(path, os.X_OK) and os.path.realpath(path) not in seen:
            seen.add(os.path.realpath(path))
            version = _ask(path)
            if version:
                gdbs.append(Gdb(os.path.dirname(path), version))
    return tuple(gdbs)


def _candidates() -> Iterator[str]:
    for path in os.environ.get("THREADSURGEON_GDBS", "").split(":"):
        if os.path.basename(path) == "gdb":
            yield path
    directory = os.path.expanduser(os.environ.get("THREADSURGEON_GDBS_DIR", "~/.cache/threadsurgeon-gdbs"))
    for found in sorted(Path(directory).glob("*/gdb")):
        yield str(found)
    for folder in os.get_exec_path():
        yield from glob.glob(glob.escape(folder) + "/gdb")


def _ask(path: str) -> str:
    command = [path, "-nx", "-q", "-batch", "-ex", "python print(gdb.VERSION)"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


if __name__ == "__main__":
    for gdb in others():
        print(f"{gdb.version:24} {gdb.folder}/gdb")
