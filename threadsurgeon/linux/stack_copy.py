"""A copy of the used part of a stopped thread's stack: what it was in one moment, to be read at leisure."""

from __future__ import annotations

from collections.abc import Sequence

from threadsurgeon.linux.elf import PAGE
from threadsurgeon.linux.memory import BadAddress, Memory, read_each

RED_ZONE = 128  # below the stack pointer, and still in use: psABI 3.2.2
MAX_COPY = 1 << 20


class StackCopy:
    """Bytes from one address on, as a ``Memory``: elsewhere there is nothing."""

    def __init__(self, start: int, content: bytes) -> None:
        self.start = start
        self.content = content

    @property
    def is_full(self) -> bool:
        """Whether the stack may go on behind what was copied."""
        return len(self.content) >= MAX_COPY

    def read(self, address: int, size: int) -> bytes:
        """Return exactly ``size`` bytes.

        Raises:
            BadAddress: not all of them are in the copy.
        """
        offset = address - self.start
        if size <= 0 or offset < 0 or offset + size > len(self.content):
            raise BadAddress(address, size)
        return self.content[offset : offset + size]

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """Return the bytes of each (address, size), None for each that is not in the copy."""
        return read_each(self, ranges)


def copy_stack(memory: Memory, stack_pointer: int) -> StackCopy:
    """Copy from the stack pointer upwards, to the end of what is mapped there, at most ``MAX_COPY`` bytes.

    Raises:
        BadAddress: there is no stack where the stack pointer points to.
    """
    start = stack_pointer - RED_ZONE
    to_page_end = PAGE - start % PAGE
    content = memory.read(start, to_page_end)
    # Where the stack ends is not known: what is asked for is halved until it is there, and what is there is kept.
    size = MAX_COPY
    while size >= PAGE and len(content) < MAX_COPY:
        (more,) = memory.read_many([(start + len(content), size)])
        if more is None:
            size //= 2
        else:
            content += more
    return StackCopy(start, content)
