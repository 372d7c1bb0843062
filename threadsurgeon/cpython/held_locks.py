"""What a thread would leave: the ``with`` blocks it has entered, the locks it holds by them, the exceptions it is handling.

The thread runs meanwhile. Everything is looked at several times, and only what was there each time is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from threadsurgeon.cpython.frames import RawFrame
from threadsurgeon.cpython.holdings_look import HoldingReader, Look, SeenBlock, SeenLock
from threadsurgeon.cpython.runtime import Runtime
from threadsurgeon.cpython.threads import ThreadState
from threadsurgeon.linux.memory import Memory

LOOKS = 3
# At a thread that runs through blocks, one look in twenty sees something that was not so: nothing is there each time.
LOOKS_AT_MOVING = 10


class HeldLock(NamedTuple):
    """A lock that the thread holds.

    ``proven``: an RLock says itself that the thread owns it; any other lock is locked, and leaving a ``with`` block that the
    thread has entered releases it.
    ``times``: how often the thread has taken it and not released it.
    ``frame``: the index of the frame that has that block; or that leads to the RLock, if no block does: see ``found_in``.
    """

    type_name: str
    address: int
    times: int
    frame: int
    found_in: str
    proven: bool


class WithBlock(NamedTuple):
    """A ``with`` block that the thread has entered, and what its ``__exit__`` belongs to.

    ``generator``: the block is in the body of this generator, which is a context manager that the frame has entered.
    ``waits``: it belongs to a Condition on which the thread waits: the lock is given up, and taken again before it goes on.
    ``proven``: it was seen each time, and belongs to the object named; False where ``__exit__`` is something unusual.
    """

    frame: int
    type_name: str
    address: int
    generator: str | None
    lock: HeldLock | None
    waits: bool
    proven: bool


class Holdings(NamedTuple):
    """What a thread holds, innermost first.

    ``handling``: the indexes of frames in an ``except``, or in a ``finally`` or ``__exit__`` because of an exception.
    ``handles_exception``: the thread's own record says that an exception is being handled in some frame.
    ``complete``: every frame could be read each time; otherwise there may be more than what is here.
    """

    blocks: tuple[WithBlock, ...]
    locks: tuple[HeldLock, ...]
    handling: tuple[int, ...]
    handles_exception: bool
    complete: bool


def read_holdings(memory: Memory, runtime: Runtime, state: ThreadState, frames: Sequence[RawFrame]) -> Holdings:
    """Return what the thread holds; indexes are those of ``frames``, what other frames hold is left out.

    Not of free-threaded builds, where nothing is said.
    """
    nothing = Holdings((), (), (), False, False)
    if runtime.layout.free_threaded:
        return nothing
    looks: list[Look] = []
    while len(looks) < LOOKS or (len(looks) < LOOKS_AT_MOVING and any(look.frames != looks[0].frames for look in looks)):
        look = HoldingReader(memory, runtime).look(state)
        if look is None:
            return nothing
        looks.append(look)
    indexes = {(frame.address, frame.code): index for index, frame in enumerate(frames)}
    seen = [{(frame.address, frame.code) for frame in look.frames} for look in looks]
    readable = all(None not in look.sights for look in looks)
    complete = readable and all(set(indexes) == keys for keys in seen)
    complete = complete and not any(sight.torn for look in looks for sight in look.sights if sight)
    waits_for = {sight.waits_for for look in looks for sight in look.sights if sight and sight.waits_for}

    blocks = []
    found = [look.find_blocks() for look in looks]
    for entered in found[0]:
        if entered.frame in indexes and all(entered in each for each in found):
            same = [each[entered] for each in found]
            blocks.append(_judge_block(same, indexes[entered.frame], state.ident, waits_for, readable))
    locks = {block.lock.address: block.lock for block in reversed(blocks) if block.lock}
    rlocks = [look.find_rlocks() for look in looks]
    for key in rlocks[0]:
        if key[0] in indexes and all(key in each for each in rlocks) and key[1] not in locks:
            held = _judge_lock([each[key] for each in rlocks], indexes[key[0]], state.ident)
            if held is not None:
                locks[key[1]] = held
    handling = set.intersection(*(look.find_handling() for look in looks))
    return Holdings(
        blocks=tuple(blocks),
        locks=tuple(sorted(locks.values(), key=lambda lock: lock.frame)),
        handling=tuple(sorted(indexes[frame] for frame in handling if frame in indexes)),
        handles_exception=all(look.handles_exception for look in looks),
        complete=complete,
    )


def _judge_block(same: list[SeenBlock], index: int, ident: int, waits_for: set[int], readable: bool) -> WithBlock:
    entered, type_name, lock = same[0]
    # A plain lock tells nobody who took it: while the thread waits on its Condition, it is others that do.
    waits = lock is not None and lock.address in waits_for
    held = None
    if lock is not None and all(block.lock is not None and block.lock.address == lock.address for block in same):
        held = _judge_lock([block.lock for block in same if block.lock], index, ident)
        if held is not None and lock.state is not None and lock.state.owner is None:
            held = None if waits else held._replace(proven=held.proven and readable)
    waits = waits and held is None
    return WithBlock(index, type_name, entered.manager, entered.generator, held, waits, entered.manager != entered.bound_exit)


def _judge_lock(same: list[SeenLock], index: int, ident: int) -> HeldLock | None:
    """Return the lock as held, None if in any look it was not."""
    states = [lock.state for lock in same]
    address, type_name, _, found_in = same[0]
    known = [state for state in states if state is not None]
    if len(known) < len(states):  # of a shape that we do not know: its block is entered, so it should be held
        return HeldLock(type_name, address, 1, index, found_in, False)
    if any(not state.locked or (state.owner is not None and state.owner != ident) for state in known):
        return None
    return HeldLock(type_name, address, min(state.times for state in known), index, found_in, True)
