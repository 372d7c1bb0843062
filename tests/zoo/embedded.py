"""Builds and runs a program in C that has Python inside: ``embedded.c``."""

from __future__ import annotations

import functools
import json
import shlex
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

from . import script
from .pythons import Python
from .script import PRELUDE, Script

SOURCE = Path(__file__).with_suffix(".c")

QUESTION = """
import json, sysconfig
names = "LIBDIR LIBPL LDLIBRARY LIBRARY Py_ENABLE_SHARED LIBS SYSLIBS LINKFORSHARED".split()
print(json.dumps(dict({name: sysconfig.get_config_var(name) for name in names}, include=sysconfig.get_path("include"))))
"""

# What the program runs: work() in the thread from C, serve() in the main thread.
CODE = (
    PRELUDE
    + """
worker, ended = [], threading.Event()

def work():
    worker.append(threading.get_native_id())
    try:
        time.sleep(100000)
    finally:
        ended.set()

def serve():
    while not worker:
        time.sleep(0.001)
    say(tids=worker)
    while hear() != "finish":
        say(ended=ended.is_set())
"""
)


@functools.cache
def _ask(python: Python) -> dict[str, str]:
    run = subprocess.run([python.command, "-I", "-c", QUESTION], capture_output=True, text=True, check=True, timeout=60)
    facts: dict[str, str] = json.loads(run.stdout)
    return facts


def library(python: Python) -> Path:
    """The libpython that the program is linked with."""
    facts = _ask(python)
    if facts["Py_ENABLE_SHARED"]:
        return Path(facts["LIBDIR"], facts["LDLIBRARY"])
    return Path(facts["LIBPL"], facts["LIBRARY"])


def can_be_embedded(python: Python) -> bool:
    """Whether its headers and its library are installed."""
    return Path(_ask(python)["include"], "Python.h").is_file() and library(python).is_file()


def build(python: Python, program: Path, *options: str) -> None:
    """Compile and link the program."""
    facts = _ask(python)
    libraries = shlex.split(" ".join([facts["LIBS"] or "", facts["SYSLIBS"] or "", facts["LINKFORSHARED"] or ""]))
    sources = [f"-I{facts['include']}", str(SOURCE), str(library(python)), f"-Wl,-rpath,{facts['LIBDIR']}"]
    subprocess.run(["cc", "-w", *options, *sources, *libraries, "-lm", "-lpthread", "-o", str(program)], check=True)


def running(program: Path, **environment: str) -> AbstractContextManager[Script]:
    """Run the program until the block ends."""
    return script.running([program, CODE], program.parent, **environment)
