"""Find the interpreter in a process: its ``_PyRuntime``, version and kind of build, and so its layout."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable
from typing import NamedTuple

from threadsurgeon.cpython.debug_offsets import read_debug_offsets
from threadsurgeon.cpython.layout import Layout, find_layout
from threadsurgeon.errors import NotPython, UnsupportedPython
from threadsurgeon.linux.mappings import Image
from threadsurgeon.linux.memory import BadAddress, Memory

OLDEST, NEWEST = (3, 8), (3, 15)
SUPPORTED = "3.8 to 3.15"
# Exported by builds with Py_REF_DEBUG (--with-pydebug), and by no other.
DEBUG_SYMBOLS = ("_Py_RefTotal", "_Py_GetGlobalRefTotal")
# What Py_GetVersion() composes in a static buffer; before 3.11 nothing else in memory tells the version.
# The text is bounded everywhere: what follows a number that only looks like a version may be megabytes of zeroes.
_VERSION_TEXT = re.compile(rb"(\d)\.(\d{1,2})\.(\d{1,2})([^\s\0]{0,32}) \([^)\0]{1,80}\) ?\n?\[")
_LEVELS = {0xA: "a", 0xB: "b", 0xC: "rc", 0xF: ""}


class Runtime(NamedTuple):
    """The interpreter in a process.

    ``problem`` says why its layout may be used to look but not to operate: the target says of itself other things than the
    headers of its version.
    """

    address: int
    version: str
    layout: Layout
    image: Image
    problem: str | None = None

    @property
    def build(self) -> str:
        """``release``, ``debug``, ``free-threaded`` or ``free-threaded debug``."""
        kinds = [
            kind
            for kind, is_set in (("free-threaded", self.layout.free_threaded), ("debug", self.layout.debug))
            if is_set
        ]
        return " ".join(kinds) or "release"

    def symbol(self, name: str) -> int:
        """Return the address of an exported symbol.

        Raises:
            UnsupportedPython: the interpreter does not export it (as in a fully stripped static program).
        """
        address = self.image.symbol(name)
        if address is None:
            raise UnsupportedPython(f"{self.image.file.path} does not export {name}")
        return address


def find_runtime(memory: Memory, images: Iterable[Image]) -> Runtime:
    """Return the interpreter among a process's images.

    Raises:
        NotPython: there is none.
        UnsupportedPython: there is one that we have no layout for.
    """
    for image in images:
        name = os.path.basename(image.file.path)
        if name.startswith(("pypy", "libpypy")):
            raise NotPython(
                f"it runs PyPy ({image.file.path})", hint=f"threadsurgeon supports CPython {SUPPORTED}"
            )
        address = image.symbol("_PyRuntime")
        if address is not None:
            return _describe(memory, image, address)
        if image.symbol("PyInterpreterState_Head") is not None:  # CPython before 3.7
            _, text = _find_version(memory, image)
            raise _unsupported(text)
    raise NotPython("no file that it has mapped exports _PyRuntime")


def _describe(memory: Memory, image: Image, address: int) -> Runtime:
    version, text = _find_version(memory, image)
    if not OLDEST <= version <= NEWEST:
        raise _unsupported(text)
    debug = any(image.symbol(name) is not None for name in DEBUG_SYMBOLS)
    if version >= (3, 13):
        offsets = read_debug_offsets(memory, address, debug=debug)
        problem = None
        if offsets.differs:
            problem = "the target describes other structures than its version's headers: " + ", ".join(offsets.differs)
        return Runtime(address, text, offsets.layout, image, problem)
    layout = find_layout(version, debug=debug, free_threaded=False)
    if layout is None:
        raise _unsupported(text)
    return Runtime(address, text, layout, image)


def _unsupported(text: str) -> UnsupportedPython:
    return UnsupportedPython(
        f"this is CPython {text}, which threadsurgeon does not know", hint=f"it supports CPython {SUPPORTED}"
    )


def _find_version(memory: Memory, image: Image) -> tuple[tuple[int, int], str]:
    """Return the version as (major, minor) and as text."""
    address = image.symbol("Py_Version")  # 3.11 on
    if address is not None:
        (number,) = struct.unpack("<Q", memory.read(address, 8))
        major, minor, micro = number >> 24 & 255, number >> 16 & 255, number >> 8 & 255
        level, serial = number >> 4 & 15, number & 15
        pre_release = f"{_LEVELS.get(level, '?')}{serial}" if level != 0xF else ""
        return (major, minor), f"{major}.{minor}.{micro}{pre_release}"
    for start, size in image.writable_ranges():
        try:
            match = _VERSION_TEXT.search(memory.read(start, size))
        except BadAddress:
            continue
        if match is not None:
            major_text, minor_text, micro_text, suffix = (group.decode("ascii", "replace") for group in match.groups())
            return (int(major_text), int(minor_text)), f"{major_text}.{minor_text}.{micro_text}{suffix}"
    raise UnsupportedPython(f"the CPython in {image.file.path} does not tell its version")
