"""A chain of return addresses along which a thread leaves: it runs functions one after the other, then the call ``exit``.

Like ``return_chain``, but nobody is returned to.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from threadsurgeon.errors import UnsupportedPython
from threadsurgeon.linux.memory import BadAddress, Memory
from threadsurgeon.surgery.return_chain import RED_ZONE, STACK_ALIGNMENT, Pieces

EXIT = 60  # x86-64
_STORE = b"\x48\x89\x07\xc3"  # mov %rax,(%rdi); ret
_CHUNK = 1 << 20


@dataclass(slots=True)
class ExitChain:
    """Steps in their order. ``store_piece``: where the target has the instructions that store ``rax`` at ``rdi``."""

    pieces: Pieces
    store_piece: int | None = None
    _words: list[int] = field(default_factory=list)

    def call(self, function: int, argument: int = 0) -> None:
        """Run ``function(argument)``."""
        # It wants the stack pointer, which is then behind its address in the chain, 8 beyond a multiple of 16.
        if len(self._words) % 2:
            self._words.append(self.pieces.return_)
        self._words += [self.pieces.pop_rdi, argument, function]

    def store(self, address: int, value: int) -> None:
        """Store a word."""
        assert self.store_piece is not None
        self._words += [self.pieces.pop_rdi, address, self.pieces.pop_rax, value, self.store_piece]

    def build(self, system_call: int, stack_pointer: int) -> tuple[int, bytes]:
        """Return (address, content) below the stack pointer; ``system_call`` is where the target has that instruction.

        The thread is to go on at ``pieces.return_`` with that address as its stack pointer.
        """
        words = [*self._words, self.pieces.pop_rax, EXIT, system_call]
        address = (stack_pointer - RED_ZONE - 8 * len(words)) // STACK_ALIGNMENT * STACK_ALIGNMENT
        return address, struct.pack(f"<{len(words)}Q", *words)


def find_store_piece(memory: Memory, ranges: Iterable[tuple[int, int]]) -> int:
    """Find the instructions that store a word in these (address, size) ranges of executable memory.

    Raises:
        UnsupportedPython: they are nowhere.
    """
    for start, size in ranges:
        for offset in range(0, size, _CHUNK):
            try:
                code = memory.read(start + offset, min(_CHUNK + len(_STORE), size - offset))
            except BadAddress:
                continue
            if (position := code.find(_STORE)) >= 0:
                return start + offset + position
    raise UnsupportedPython("the code of this process lacks an instruction sequence that we need: a store")
