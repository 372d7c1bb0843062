"""pthread_t → TID, for CPythons that do not record it (before 3.11).

A ``pthread_t`` is the address of the C library's ``struct pthread``, which holds the kernel's TID at an offset that the
library keeps private. The main thread tells it: there the TID is the PID. (The idea is pystack's.)
"""

from __future__ import annotations

import struct

from threadsurgeon.errors import UnsupportedPython
from threadsurgeon.linux.memory import BadAddress, Memory

# Where `tid` was seen, in bytes: glibc 2.4 to 2.41 on x86-64, glibc on aarch64, musl 1.2 on x86-64.
KNOWN_OFFSETS = (720, 208, 48)
# struct pthread is larger than this in every library seen.
SEARCHED = 1024


def find_tid_offset(memory: Memory, main_ident: int, main_tid: int) -> int:
    """Return the offset of the TID in ``struct pthread``, in bytes.

    ``main_tid`` is the PID that the process itself sees (in a container not the one that we see).

    Raises:
        UnsupportedPython: the PID is not in the main thread's ``struct pthread``.
    """
    try:
        content = memory.read(main_ident, SEARCHED)
    except BadAddress:
        raise UnsupportedPython(f"the main thread's pthread structure at {main_ident:#x} is not readable") from None
    words: tuple[int, ...] = struct.unpack(f"<{SEARCHED // 4}i", content)
    for offset in (*KNOWN_OFFSETS, *range(0, SEARCHED, 4)):
        if words[offset // 4] == main_tid:
            return int(offset)
    raise UnsupportedPython("the C library's thread structure is not one we know: it does not hold the TID")


def read_tids(memory: Memory, idents: list[int], offset: int) -> dict[int, int]:
    """Return the TID, as the process itself sees it, of each ident; a thread that has ended is left out."""
    contents = memory.read_many([(ident + offset, 4) for ident in idents])
    tids = {}
    for ident, content in zip(idents, contents, strict=True):
        tid = int.from_bytes(content, "little", signed=True) if content is not None else 0
        if tid > 0:  # the library clears it when the thread ends, and the structure stays cached
            tids[ident] = tid
    return tids
