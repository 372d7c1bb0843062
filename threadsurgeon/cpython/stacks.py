"""The Python stacks of many threads that run meanwhile: what was torn is read again."""

from __future__ import annotations

from typing import NamedTuple

from threadsurgeon.cpython.frames import FrameReader, RawFrame
from threadsurgeon.cpython.objects import ObjectReader
from threadsurgeon.cpython.reading import walk_together
from threadsurgeon.cpython.runtime import Runtime
from threadsurgeon.cpython.threads import ThreadState, refresh_thread_state
from threadsurgeon.linux.memory import Memory
from threadsurgeon.model.threads import Frame

# A running thread changes its frames while we read them; a stack that was torn is read again this often.
TRIES = 4
_NOTHING: tuple[list[RawFrame], bool] = ([], False)


class Stack(NamedTuple):
    """The same frames twice: for people, and as addresses."""

    frames: tuple[Frame, ...]
    raw: list[RawFrame]


def read_stacks(memory: Memory, runtime: Runtime, code_type: int, states: list[ThreadState]) -> dict[int, Stack]:
    """Return each thread's frames, innermost first, by the address of its thread state; none where every try was torn.

    ``code_type`` is the address of the target's ``PyCode_Type``.
    """
    # A reader remembers code objects by their addresses, which is right for one look only.
    reader = FrameReader(memory, ObjectReader(runtime.layout), code_type)
    stacks = {state.address: Stack((), []) for state in states}
    waiting = states
    for _ in range(TRIES):
        walked = walk_together(memory, (reader.walk_stack(state.content) for state in waiting))
        resolved = reader.resolve(raw for raw, _ in (found or _NOTHING for found in walked))
        torn = []
        for state, found, stack in zip(waiting, walked, resolved, strict=True):
            if found is None or stack is None:
                torn.append(state)
                continue
            raw, begins_at_root = found
            if not begins_at_root:  # but better than nothing, if it is never seen otherwise
                torn.append(state)
            stacks[state.address] = Stack(stack, raw)
        if not torn:
            break
        again = (refresh_thread_state(memory, runtime, state) for state in torn)
        waiting = [fresh for fresh in again if fresh is not None]
    return stacks
