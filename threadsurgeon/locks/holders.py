"""Who holds a lock that keeps no owner: the thread that has entered a ``with`` block on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from threadsurgeon.cpython.held_locks import read_holdings
from threadsurgeon.cpython.holdings_look import HoldingReader
from threadsurgeon.cpython.lock_waits import WAITING_FILES
from threadsurgeon.cpython.reading import walk_together
from threadsurgeon.inventory import Sighting, Target


class Holder(NamedTuple):
    """A thread that holds what others wait for, and what that rests on."""

    tid: int
    proven: bool
    evidence: str


class _Entered(NamedTuple):
    """A ``with`` block, as one look saw it."""

    sighting: Sighting
    frame: int
    torn: bool


def find_holders(
    target: Target, sightings: Sequence[Sighting], wanted: Iterable[int], slept: Callable[[int], bool]
) -> dict[int, list[Holder]]:
    """Return who holds each of these locks (or semaphores), by the lock's address.

    ``slept`` says whether a thread has not run since before its frames were read: one look at it is then enough.
    """
    wanted = set(wanted)
    if not wanted or target.runtime.layout.free_threaded:
        return {}
    found: dict[int, list[Holder]] = {}
    for lock, blocks in _find_blocks(target, sightings, wanted).items():
        holders = {block.sighting.thread.tid: holder for block in blocks if (holder := _judge(target, lock, block, slept))}
        # A plain lock has one holder. Where two are in a block on it, one of them has released it inside.
        proven = len(holders) == 1
        found[lock] = [holder._replace(proven=holder.proven and proven) for holder in holders.values()]
    return found


def find_takers(target: Target, sightings: Sequence[Sighting], waiters: dict[int, set[int]]) -> dict[int, Holder]:
    """Return who may hold each of these locks, of which nobody is in a block: the only thread whose code may have taken it.

    That is one that does not wait for it, in whose stack code that calls some ``acquire`` refers to the lock. ``waiters``: the
    TIDs of those that wait, by the lock's address.
    """
    if not waiters or target.runtime.layout.free_threaded:
        return {}
    reader = HoldingReader(target.memory, target.runtime)
    codes = reader.find_uses((raw for sighting in sightings for raw in sighting.raw_frames), "acquire")
    places = [
        (sighting, index, raw)
        for sighting in sightings
        for index, raw in enumerate(sighting.raw_frames)
        if raw.code in codes and not sighting.thread.frames[index].file.endswith(WAITING_FILES)
    ]
    references = walk_together(target.memory, (reader.read_references(raw) for _, _, raw in places))
    takers: dict[int, dict[int, Holder]] = {}
    for (sighting, index, _), found in zip(places, references, strict=True):
        tid, frame = sighting.thread.tid, sighting.thread.frames[index]
        evidence = f"thread {tid} alone knows the lock and calls some `acquire`, in {frame}"
        for lock in waiters.keys() & (found or ()):
            if tid not in waiters[lock]:
                takers.setdefault(lock, {}).setdefault(tid, Holder(tid, False, evidence))
    return {lock: next(iter(group.values())) for lock, group in takers.items() if len(group) == 1}


def _find_blocks(target: Target, sightings: Sequence[Sighting], wanted: set[int]) -> dict[int, list[_Entered]]:
    """Return the blocks on wanted locks, innermost of each thread first, without those of threads that wait on a Condition."""
    reader = HoldingReader(target.memory, target.runtime)
    codes = reader.find_codes(raw for sighting in sightings for raw in sighting.raw_frames)
    places = [
        (sighting, index, raw)
        for sighting in sightings
        for index, raw in enumerate(sighting.raw_frames)
        if raw.code in codes
    ]
    # One frame of each place first: what the others share with it is then read once.
    for group in ({raw.instruction: raw for _, _, raw in places}.values(), (raw for _, _, raw in places)):
        sights = walk_together(target.memory, map(reader.read_entered, group))
    given_up = {
        (sighting.thread.tid, sight.waits_for) for (sighting, _, _), sight in zip(places, sights, strict=True) if sight
    }
    blocks: dict[int, list[_Entered]] = {}
    for (sighting, index, _), sight in zip(places, sights, strict=True):
        for block in sight.entered if sight else ():
            for address in {block.entered.manager, block.lock.address if block.lock else 0} & wanted:
                # While it waits on a Condition others have the lock.
                if (sighting.thread.tid, address) not in given_up:
                    blocks.setdefault(address, []).append(_Entered(sighting, index, bool(sight and sight.torn)))
    return blocks


def _judge(target: Target, lock: int, block: _Entered, slept: Callable[[int], bool]) -> Holder | None:
    """Return the thread as a holder, None if a closer look says that it is not."""
    thread = block.sighting.thread
    evidence = f"thread {thread.tid} is in a `with` block on it, in {thread.frames[block.frame]}"
    released = _may_have_released(target, block)
    if released:
        evidence += ", where something is released"
    if slept(thread.tid) and not block.torn:
        return Holder(thread.tid, not released, evidence)
    holdings = read_holdings(target.memory, target.runtime, block.sighting.state, block.sighting.raw_frames)
    held = next((held for held in holdings.locks if held.address == lock), None)
    if held is not None:
        return Holder(thread.tid, held.proven and not released, evidence)
    entered = next((seen for seen in holdings.blocks if seen.address == lock), None)  # a semaphore's
    return Holder(thread.tid, entered.proven and not released, evidence) if entered is not None else None


def _may_have_released(target: Target, block: _Entered) -> bool:
    """Say whether code within the block calls some ``release``: a lock can be given back before the block is left."""
    within = zip(block.sighting.raw_frames[: block.frame + 1], block.sighting.thread.frames, strict=False)
    frames = [raw for raw, frame in within if not frame.file.endswith(WAITING_FILES)]
    return bool(HoldingReader(target.memory, target.runtime).find_uses(frames, "release"))
