"""Stacks with native frames."""

from typing import NamedTuple

from threadsurgeon.model.threads import Frame, Thread


class NativeCall(NamedTuple):
    """One native frame: where code of a mapped file is in a call, or at its next instruction.

    ``function`` is the name that the file exports for that code, None where it exports none. ``offset``: in bytes, of the
    address in the file's own numbering, as ``addr2line`` and ``objdump`` take it. Both ``file`` and ``offset`` are None where
    the address is in no file.
    """

    function: str | None
    file: str | None
    offset: int | None

    def __str__(self) -> str:
        place = f"{self.file.rpartition('/')[2]}+{self.offset:#x}" if self.file and self.offset is not None else "no file"
        return f"{self.function or '?'} ({place})"


class NativeStack(NamedTuple):
    """One thread with its native and its Python frames in one list, innermost first, as of one moment.

    The Python frames stand in the place of the eval loop that runs them. ``stopped_seconds``: how long this thread was stopped
    for it; no other was. ``warnings`` say where the stack could not be followed, or frames could not be placed.
    """

    thread: Thread
    merged: tuple[Frame | NativeCall, ...]
    stopped_seconds: float
    debugger: str
    warnings: tuple[str, ...] = ()
