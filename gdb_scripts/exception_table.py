"""Exception tables of CPython 3.11 and later (Objects/exception_handling_notes.txt), and what is left of one without handlers.

An entry sends the exceptions of a range of instructions to a target. Targets that begin with PUSH_EXC_INFO are handlers: an
``except``, ``finally`` or ``with``. Others only tidy up and raise again, such as the end of an except clause, after which
``sys.exc_info()`` is what it was before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

FIRST_INSTRUMENTED = 230  # opcodes from here on stand for others, while a debugger or a profiler traces (3.12 on)


class Entry(NamedTuple):
    """``start``, ``size`` and ``target`` count instructions; ``depth`` is the stack's, shifted by the lasti bit."""

    start: int
    size: int
    target: int
    depth: int


def without_handlers(table: bytes, read_opcode: Callable[[int], int], push_exc_info: int) -> bytes:
    """Return the table in which each exception goes where it would go if there were no handlers."""
    entries = list(_decode(table))

    def find(instruction: int) -> Entry | None:
        return next((entry for entry in entries if 0 <= instruction - entry.start < entry.size), None)

    def redirect(entry: Entry) -> Entry | None:
        goal: Entry | None = entry
        for _ in entries:
            if goal is None:
                return None
            opcode = read_opcode(goal.target)
            if goal.depth >> 1 <= entry.depth >> 1 and opcode != push_exc_info and opcode < FIRST_INSTRUMENTED:
                return Entry(entry.start, entry.size, goal.target, goal.depth)
            # Further out: what belongs to the handler itself is for a stack on which it has put more.
            goal = find(goal.target)
        return None

    return b"".join(_encode(kept) for kept in map(redirect, entries) if kept is not None)


def _decode(table: bytes) -> Iterator[Entry]:
    """Six bits a byte, most significant first; 64: more follow; 128: an entry begins."""
    numbers: list[int] = []
    value = 0
    for byte in table:
        value = value << 6 | byte & 63
        if not byte & 64:
            numbers.append(value)
            value = 0
    for position in range(0, len(numbers) - 3, 4):
        yield Entry(*numbers[position : position + 4])


def _encode(entry: Entry) -> bytes:
    content = bytearray()
    for number in entry:
        digits = [number & 63]
        while number := number >> 6:
            digits.append(number & 63 | 64)
        content += bytes(reversed(digits))
    content[0] |= 128
    return bytes(content)
