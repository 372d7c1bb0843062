"""What a thread would leave: the ``with`` blocks it has entered, the locks it holds by them, the exceptions it is handling.

The thread runs meanwhile. Everything is looked at several times, and only what was there each time is reported.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from threadsurgeon.cpython.blocks import BlockReader, FrameBlocks
from threadsurgeon.cpython.frames import TAG_MASK, FrameReader, RawFrame
from threadsurgeon.cpython.lock_objects import RLOCK, LockReader, LockState, TypeName
from threadsurgeon.cpython.objects import POINTER, ObjectReader
from threadsurgeon.cpython.reading import Walk, walk_alone, walk_together
from threadsurgeon.cpython.runtime import Runtime
from threadsurgeon.cpython.threads import ThreadState, read_thread_state
from threadsurgeon.linux.memory import BadAddress, Memory

LOOKS = 3
TRIES = 8  # for each look: a stack that changed while it was walked is walked again
MAX_NESTED = 8  # context managers made of generators that use such context managers
MAX_EXCEPTIONS = 1000
MAX_LOCALS = 4096
CONDITION = "threading.Condition"

_pointer = struct.Struct("<Q").unpack_from
_signed32 = struct.Struct("<i").unpack_from


class HeldLock(NamedTuple):
    """A lock that the thread holds.

    ``proven``: an RLock says itself that the thread owns it; any other lock is locked, and leaving a ``with`` block that the
    thread has entered releases it.
    ``times``: how often the thread has taken it and not released it.
    ``frame``: the index of the frame with that block; ``in_block`` is False for an RLock found in a local variable of it.
    """

    type_name: str
    address: int
    times: int
    frame: int
    in_block: bool
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


class _Lock(NamedTuple):
    address: int
    type_name: str
    state: LockState | None


class _Entered(NamedTuple):
    """What makes a block the same one in two looks."""

    frame: tuple[int, int]
    slot: int
    bound_exit: int
    manager: int
    generator: str | None


class _Block(NamedTuple):
    entered: _Entered
    type_name: str
    lock: _Lock | None


class _FrameSight(NamedTuple):
    blocks: list[_Block]
    rlocks: list[_Lock]
    waits_for: int
    handling: bool


class _Look(NamedTuple):
    frames: list[RawFrame]
    sights: list[_FrameSight | None]
    handles_exception: bool

    def find_blocks(self) -> dict[_Entered, _Block]:
        return {block.entered: block for sight in self.sights if sight for block in sight.blocks}

    def find_rlocks(self) -> dict[tuple[tuple[int, int], int], _Lock]:
        return {
            ((frame.address, frame.code), lock.address): lock
            for frame, sight in zip(self.frames, self.sights, strict=True)
            if sight
            for lock in sight.rlocks
        }

    def find_handling(self) -> set[tuple[int, int]]:
        pairs = zip(self.frames, self.sights, strict=True)
        return {(frame.address, frame.code) for frame, sight in pairs if sight and sight.handling}


def read_holdings(memory: Memory, runtime: Runtime, state: ThreadState, frames: Sequence[RawFrame]) -> Holdings:
    """Return what the thread holds; indexes are those of ``frames``, what other frames hold is left out.

    Not of free-threaded builds, where nothing is said.
    """
    nothing = Holdings((), (), (), False, False)
    if runtime.layout.free_threaded:
        return nothing
    looks = []
    for _ in range(LOOKS):
        look = _HoldingReader(memory, runtime, state).look()
        if look is None:
            return nothing
        looks.append(look)
    indexes = {(frame.address, frame.code): index for index, frame in enumerate(frames)}
    seen = [{(frame.address, frame.code) for frame in look.frames} for look in looks]
    readable = all(None not in look.sights for look in looks)
    complete = readable and all(set(indexes) == keys for keys in seen)
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
                locks[key[1]] = held._replace(in_block=False)
    handling = set.intersection(*(look.find_handling() for look in looks))
    return Holdings(
        blocks=tuple(blocks),
        locks=tuple(sorted(locks.values(), key=lambda lock: lock.frame)),
        handling=tuple(sorted(indexes[frame] for frame in handling if frame in indexes)),
        handles_exception=all(look.handles_exception for look in looks),
        complete=complete,
    )


def _judge_block(same: list[_Block], index: int, ident: int, waits_for: set[int], readable: bool) -> WithBlock:
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


def _judge_lock(same: list[_Lock], index: int, ident: int) -> HeldLock | None:
    """Return the lock as held, None if in any look it was not."""
    states = [lock.state for lock in same]
    address, type_name, _ = same[0]
    known = [state for state in states if state is not None]
    if len(known) < len(states):  # of a shape that we do not know: its block is entered, so it should be held
        return HeldLock(type_name, address, 1, index, True, False)
    if any(not state.locked or (state.owner is not None and state.owner != ident) for state in known):
        return None
    return HeldLock(type_name, address, min(state.times for state in known), index, True, True)


class _HoldingReader:
    """One look: what is read once during it (types, code) may be something else in the next."""

    def __init__(self, memory: Memory, runtime: Runtime, state: ThreadState) -> None:
        self._memory = memory
        self._runtime = runtime
        self._state = state
        self._layout = runtime.layout
        self._objects = ObjectReader(runtime.layout)
        code_type = runtime.symbol("PyCode_Type")
        self._frames = FrameReader(memory, self._objects, code_type)
        self._blocks = BlockReader(self._objects, code_type)
        self._locks = LockReader(self._objects)
        self._method_type = runtime.symbol("PyMethod_Type")
        # The second one is for C methods that want to know their class, since 3.9.
        self._function_types = {runtime.image.symbol(name) for name in ("PyCFunction_Type", "PyCMethod_Type")} - {None}
        self._generator_type = runtime.symbol("PyGen_Type")
        self._none = runtime.symbol("_Py_NoneStruct")

    def look(self) -> _Look | None:
        """Return what is seen, None if the thread is gone or moves too fast."""
        for _ in range(TRIES):
            try:
                fresh = read_thread_state(self._memory, self._runtime, self._state.interpreter, self._state.address)
                if fresh is None or fresh.ident != self._state.ident:
                    return None
                frames = walk_alone(self._memory, self._frames.walk_frames(fresh.content))
                handles = walk_alone(self._memory, self._read_handles_exception(fresh.content))
            except BadAddress:
                continue
            return _Look(frames, walk_together(self._memory, map(self._read_frame, frames)), handles)
        return None

    def _read_handles_exception(self, thread_state: bytes) -> Walk[bool]:
        """As ``_PyErr_GetTopmostException`` does: generators have items of their own, in front of the thread's."""
        layout = self._layout.exception_item
        (address,) = _pointer(thread_state, self._layout.thread_state.exc_info)
        for _ in range(MAX_EXCEPTIONS):
            if not address:
                break
            value = yield from self._objects.read_pointer(address + layout.exc_value)
            if value not in (0, self._none):
                return True
            address = yield from self._objects.read_pointer(address + layout.previous_item)
        return False

    def _read_frame(self, frame: RawFrame) -> Walk[_FrameSight]:
        blocks = yield from self._blocks.read_blocks(frame)
        code = yield from self._blocks.read_code(frame.code)
        values = yield from self._read_locals(blocks)
        waits_for = 0
        if code.name == "wait" and values and values[0]:
            type_name = yield from self._locks.read_type_of(values[0])
            if type_name.find(CONDITION) is not None:
                lock = yield from self._read_condition_lock(values[0])
                waits_for = lock.address if lock is not None else 0
        entered: list[_Block] = []
        yield from self._add_blocks(entered, (frame.address, frame.code), blocks, None, 0)
        rlocks = yield from self._read_rlocks(values)
        return _FrameSight(entered, rlocks, waits_for, blocks.handling)

    def _add_blocks(
        self, found: list[_Block], frame: tuple[int, int], blocks: FrameBlocks, generator: str | None, nested: int
    ) -> Walk[None]:
        for slot in blocks.exits:
            bound_exit, manager = yield from self._read_manager(slot)
            type_name = yield from self._locks.read_type_of(manager)
            inner = yield from self._find_generator(manager, type_name)
            if inner is not None and nested < MAX_NESTED:
                code = yield from self._blocks.read_code(inner.code)
                inner_blocks = yield from self._blocks.read_blocks(inner)
                yield from self._add_blocks(found, frame, inner_blocks, code.name, nested + 1)
            lock = yield from self._read_manager_lock(manager, type_name)
            found.append(_Block(_Entered(frame, slot, bound_exit, manager, generator), type_name.name, lock))

    def _read_manager(self, slot: int) -> Walk[tuple[int, int]]:
        """Return what is on the stack for ``__exit__``, and the object it belongs to: itself if it is no method."""
        if self._layout.version >= (3, 14):  # LOAD_SPECIAL: the function and its self, which is NULL if it is bound
            content = yield (slot - POINTER, 2 * POINTER)
            bound_exit, manager = (word & TAG_MASK for word in struct.unpack("<QQ", content))
            if manager:
                return bound_exit, manager
        else:
            bound_exit = yield from self._objects.read_pointer(slot)
        type_address = yield from self._objects.read_pointer(bound_exit + self._layout.pyobject.ob_type)
        if type_address == self._method_type:
            field = self._layout.method_object.im_self
        elif type_address in self._function_types:
            field = self._layout.cfunction_object.m_self
        else:
            return bound_exit, bound_exit
        manager = yield from self._objects.read_pointer(bound_exit + field)
        return bound_exit, manager or bound_exit

    def _find_generator(self, manager: int, type_name: TypeName) -> Walk[RawFrame | None]:
        """Return the frame of the generator behind a ``contextlib.contextmanager``."""
        if not type_name.name.startswith("contextlib."):
            return None
        attributes = yield from self._objects.read_attributes(manager, "gen")
        if "gen" not in attributes:
            return None
        generator = attributes["gen"]
        type_address = yield from self._objects.read_pointer(generator + self._layout.pyobject.ob_type)
        if type_address != self._generator_type:
            return None
        old, new = self._layout.frame_object, self._layout.interpreter_frame
        if old is not None:
            assert self._layout.gen_object.gi_frame is not None
            address = yield from self._objects.read_pointer(generator + self._layout.gen_object.gi_frame)
            if not address:
                return None
            content = yield (address, old.f_lasti + 4)
            return RawFrame(address, _pointer(content, old.f_code)[0], _signed32(content, old.f_lasti)[0])
        assert self._layout.gen_object.gi_iframe is not None
        assert new is not None
        address = generator + self._layout.gen_object.gi_iframe
        content = yield (address, new.localsplus)
        code = _pointer(content, new.executable)[0] & TAG_MASK
        return RawFrame(address, code, _pointer(content, new.instr_ptr)[0])

    def _read_manager_lock(self, manager: int, type_name: TypeName) -> Walk[_Lock | None]:
        if type_name.is_lock:
            state = yield from self._locks.read_lock(manager, type_name)
            return _Lock(manager, type_name.name, state)
        if type_name.find(CONDITION) is not None:
            return (yield from self._read_condition_lock(manager))
        return None

    def _read_condition_lock(self, condition: int) -> Walk[_Lock | None]:
        attributes = yield from self._objects.read_attributes(condition, "_lock")
        if "_lock" not in attributes:
            return None
        type_name = yield from self._locks.read_type_of(attributes["_lock"])
        if not type_name.is_lock:
            return None
        state = yield from self._locks.read_lock(attributes["_lock"], type_name)
        return _Lock(attributes["_lock"], type_name.name, state)

    def _read_locals(self, blocks: FrameBlocks) -> Walk[list[int]]:
        count = min(blocks.locals_count, MAX_LOCALS)
        if not count:
            return []
        content = yield (blocks.locals_address, count * POINTER)
        return [word & TAG_MASK for word in struct.unpack(f"<{count}Q", content)]

    def _read_rlocks(self, values: Iterable[int]) -> Walk[list[_Lock]]:
        """Return those of the objects that are an RLock: it says itself who owns it, however it was taken."""
        addresses = [value for value in dict.fromkeys(values) if value]
        types = yield [(address + self._layout.pyobject.ob_type, POINTER) for address in addresses]
        found = []
        for address, content in zip(addresses, types, strict=True):
            if content is None:
                continue
            try:
                type_name = yield from self._locks.read_type(_pointer(content)[0])
                state = (yield from self._locks.read_lock(address, type_name)) if type_name.find(RLOCK) else None
            except BadAddress:  # a local variable that is not set has left anything there
                continue
            if state is not None:
                found.append(_Lock(address, type_name.name, state))
        return found
