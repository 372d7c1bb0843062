"""Freezes a program with PyInstaller, into one directory and into one file, and runs it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from . import script
from .pythons import Python
from .script import PRELUDE, Script

FORMS = ("directory", "file")
FUNCTIONS = ("sleep", "wait", "count")

# "count" never gives the GIL away, so it begins when it is told to.
PROGRAM = (
    PRELUDE
    + """
import itertools
lock, go, ended = threading.Lock(), threading.Event(), []

def sleep():
    time.sleep(100000)

def wait():
    lock.acquire()

def count():
    go.wait()
    sum(itertools.count())

def work(function):
    try:
        function()
    finally:
        ended.append(function.__name__)

lock.acquire()
threads = [threading.Thread(target=work, args=[f], name="to " + f.__name__, daemon=True) for f in (sleep, wait, count)]
for thread in threads:
    thread.start()
ready(threads)
say(pid=os.getpid())
for line in iter(hear, "finish"):
    if line == "count":
        go.set()
    else:
        say(ended=ended)
"""
)

# One analysis for both forms; nothing is compressed, which would take longest, nor stripped, as by default.
SPECIFICATION = """
analysis = Analysis(["program.py"], excludes=["bz2", "lzma", "ssl", "_hashlib"])
modules = PYZ(analysis.pure)
EXE(modules, analysis.scripts, analysis.binaries, analysis.datas, name="file", cdict={})
starter = EXE(modules, analysis.scripts, exclude_binaries=True, name="starter")
COLLECT(starter, analysis.binaries, analysis.datas, name="directory")
"""

# Pure Python, and so good for every version that needs nothing else.
PYINSTALLER = ("PyInstaller", "_pyinstaller_hooks_contrib", "altgraph", "packaging")


def can_be_frozen(python: Python) -> bool:
    """Whether it has a libpython, without which PyInstaller does not freeze; before 3.10 it needs more packages."""
    return python.shared and python.version >= (3, 10) and all(map(find_spec, PYINSTALLER))


def freeze(python: Python, folder: Path) -> Path:
    """Return where both forms are; they are made once in this folder, whoever asks first."""
    place = folder / f"frozen-{python.name}"
    with open(folder / f"frozen-{python.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.is_dir():
            _freeze(python, folder / f"freezing-{python.name}").rename(place)
    return place


def _freeze(python: Python, folder: Path) -> Path:
    packages = folder / "packages"
    packages.mkdir(parents=True)
    for name in PYINSTALLER:
        specification = find_spec(name)
        assert specification
        assert specification.origin
        (packages / name).symlink_to(Path(specification.origin).parent)
    (folder / "program.py").write_text(PROGRAM)
    (folder / "program.spec").write_text(SPECIFICATION)
    subprocess.run(
        [python.command, "-m", "PyInstaller", "--log-level", "WARN", "program.spec"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(packages), "PYINSTALLER_CONFIG_DIR": str(folder / "cache")},
        check=True,
    )
    return folder / "dist"


@contextmanager
def running(place: Path, form: str, folder: Path) -> Iterator[Script]:
    """Run the program until the block ends. ``pid``: where Python runs; one file unpacks itself, and starts a child."""
    program = place / "directory" / "starter" if form == "directory" else place / "file"
    with script.running([program], folder, TMPDIR=str(folder)) as target:
        target.pid = target.answer()["pid"]
        child = os.pidfd_open(target.pid)
        try:
            yield target
        finally:  # after a failure it would outlive its parent
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(child, signal.SIGKILL)
            os.close(child)
