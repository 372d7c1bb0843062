"""Finds the CPythons of this machine (3.8 and later) that victims run on, and gives each a name."""

from __future__ import annotations

import functools
import glob
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

OLDEST = (3, 8)

# What an interpreter says of itself. Old syntax: whatever we find by its name may be any version.
QUESTION = """
import importlib.util, json, platform, sys, sysconfig
print(json.dumps({
    "implementation": platform.python_implementation(),
    "version": list(sys.version_info[:3]),
    "debug": hasattr(sys, "gettotalrefcount"),
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "shared": "/libpython3" in open("/proc/self/maps").read(),
    "musl": "musl" in (sysconfig.get_config_var("HOST_GNU_TYPE") or ""),
    "lacks": [name for name, code in [("ctypes", "_ctypes"), ("hashlib", "_hashlib"), ("zlib", "zlib")]
              if not importlib.util.find_spec(code)],
}))
"""


@dataclass(frozen=True)
class Python:
    """One interpreter.

    ``shared``  its code is in libpython3.X.so, not in the executable
    ``musl``  its C library is musl
    ``lacks``  modules that it was built without, or without the library behind them (OpenSSL: hashlib)
    """

    name: str
    command: str
    implementation: str
    version: tuple[int, int, int]
    debug: bool
    free_threaded: bool
    shared: bool
    musl: bool
    lacks: frozenset[str]

    @property
    def is_usual(self) -> bool:
        """Has a GIL, and glibc as its C library: for all that is not about other builds."""
        return not self.free_threaded and not self.musl

    @property
    def build(self) -> str:
        kinds = ["free-threaded"] * self.free_threaded + ["debug"] * self.debug
        return " ".join(kinds) or "release"

    @functools.cached_property
    def has_jit(self) -> bool:
        """Built with the experimental JIT compiler, be it switched off by default (3.14 on tell; PEP 744)."""
        question = "import sys; print(sys._jit.is_available())"
        answer = subprocess.run([self.command, "-c", question], capture_output=True, text=True, timeout=60)
        return answer.stdout.strip() == "True"

    @property
    def may_inline(self) -> bool:
        """Linked as one optimised whole (LTO), so that a function may be copied into its callers.

        Distributions do not record LTO where Python could see it; those that use it link statically.
        """
        return not self.shared and not self.debug

    def __str__(self) -> str:
        return self.name


@functools.cache
def found() -> tuple[Python, ...]:
    """Every CPython 3.8+ found, each once, ordered by version."""
    candidates: dict[str, str] = {}
    for origin, path in _candidates():
        if os.access(path, os.X_OK) and "shims" not in Path(path).parts:  # pyenv's shims are scripts
            candidates.setdefault(os.path.realpath(path), origin)
    with ThreadPoolExecutor(4) as pool:
        pythons = pool.map(_ask, candidates, candidates.values())
    suitable = [p for p in pythons if p and p.implementation == "CPython" and p.version >= OLDEST]
    suitable.sort(key=lambda python: (python.version, python.debug, python.name))
    names: dict[str, int] = {}
    unique = []
    for python in suitable:
        count = names[python.name] = names.get(python.name, 0) + 1
        unique.append(python if count == 1 else replace(python, name=f"{python.name}-{count}"))
    return tuple(unique)


def select(pattern: str = "") -> list[Python]:
    """Those that match a comma-separated part: ``3.8`` is that version in every build, ``pyenv`` part of a name."""
    parts = [part.strip() for part in pattern.split(",") if part.strip()]
    return [python for python in found() if not parts or any(_matches(python.name, part) for part in parts)]


def _matches(name: str, part: str) -> bool:
    if re.fullmatch(r"[\d.]+", part):
        return re.match(re.escape(part) + r"(?!\d)", name) is not None
    return part in name


def _candidates() -> Iterator[tuple[str, str]]:
    directory = os.environ.get("THREADSURGEON_PYTHONS_DIR", "~/.cache/threadsurgeon-pythons")
    directory = glob.escape(os.path.expanduser(directory))
    for path in os.environ.get("THREADSURGEON_PYTHONS", "").split(":"):
        if path:
            yield "named", path
    for path in sorted(glob.glob(os.path.expanduser("~/.pyenv/versions/3.*/bin/python3"))):
        yield "pyenv", path
    for path in sorted(glob.glob(f"{directory}/root-*/usr/bin/python3.*.host")):
        yield Path(path).relative_to(Path(path).parents[3]).parts[0].removeprefix("root-"), path
    for path in sorted(glob.glob(f"{directory}/cp3*/bin/python3.*[0-9]")):
        yield "built", path
    for place in dict.fromkeys(["/usr/bin", *os.get_exec_path()]):
        for path in sorted(glob.glob(glob.escape(place) + "/python3.*")):
            if re.fullmatch(r"python3\.\d+[dt]*", os.path.basename(path)):
                yield "system" if place in ("/usr/bin", "/bin") else "path", path
    yield "own", getattr(sys, "_base_executable", sys.executable)


def _ask(command: str, origin: str) -> Python | None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    try:
        run = subprocess.run(
            [command, "-I", "-c", QUESTION], env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        answer = json.loads(run.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None  # not an interpreter that works here
    version = tuple(answer.pop("version"))
    letters = "t" * answer["free_threaded"] + "d" * answer["debug"]
    name = "{}.{}.{}{}-{}".format(*version, letters, "musl-" * answer["musl"] + origin)
    return Python(name=name, command=command, version=version, lacks=frozenset(answer.pop("lacks")), **answer)


if __name__ == "__main__":
    for python in found():
        print(f"{python.name:24} {python.build:14} {python.command}")
