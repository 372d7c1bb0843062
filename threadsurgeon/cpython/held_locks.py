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
# At a thread that runs through blocks, one look in twenty sees something that was not so: nothing is there each time.
LOOKS_AT_MOVING = 10
TRIES = 8  # for each look: a stack that changed while it was walked is walked again
MAX_NESTED = 8  # context managers made of generators that use such context managers
MAX_EXCEPTIONS = 1000
MAX_LOCALS = 4096
MAX_ATTRIBUTES = 1000
CONDITION = "threading.Condition"
# Where a lock was found. An RLock says itself who owns it, however it was taken.
WITH_BLOCK, LOCAL_VARIABLE, ATTRIBUTE = "with block", "local variable", "attribute of self"

_pointer = struct.Struct("<Q").unpack_from
_signed32 = struct.Struct("<i").unpack_from


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


class _Lock(NamedTuple):
    address: int
    type_name: str
    state: LockState | None
    found_in: str


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
    torn: bool


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
    looks: list[_Look] = []
    while len(looks) < LOOKS or (len(looks) < LOOKS_AT_MOVING and any(look.frames != looks[0].frames for look in looks)):
        look = _HoldingReader(memory, runtime, state).look()
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
    address, type_name, _, found_in = same[0]
    known = [state for state in states if state is not None]
    if len(known) < len(states):  # of a shape that we do not know: its block is entered, so it should be held
        return HeldLock(type_name, address, 1, index, found_in, False)
    if any(not state.locked or (state.owner is not None and state.owner != ident) for state in known):
        return None
    return HeldLock(type_name, address, min(state.times for state in known), index, found_in, True)


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
        rlocks = yield from self._read_rlocks(values, LOCAL_VARIABLE)
        if values and values[0]:
            rlocks += yield from self._read_rlocks((yield from self._read_attributes(values[0])), ATTRIBUTE)
        entered: list[_Block] = []
        torn = False
        for slot, words in (yield from self._read_exits(blocks)).items():
            # The frame may leave the block meanwhile, and what stood there be something else by now.
            try:
                found = yield from self._read_entered((frame.address, frame.code), slot, words, None, 0)
                again = yield from self._read_raw_frame(frame.address)
                exits = yield from self._read_exits((yield from self._blocks.read_blocks(again)))
            except BadAddress:
                exits = {}
            if exits.get(slot) == words:
                entered += found
            else:
                torn = True
        return _FrameSight(entered, rlocks, waits_for, blocks.handling, torn)

    def _read_exits(self, blocks: FrameBlocks) -> Walk[dict[int, tuple[int, int]]]:
        """Return what is on the stack for each ``__exit__``: before 3.14 (0, method), later (function, self or 0)."""
        contents = yield [(slot - POINTER, 2 * POINTER) for slot in blocks.exits]
        exits = {}
        for slot, content in zip(blocks.exits, contents, strict=True):
            if content is not None:
                below, top = struct.unpack("<QQ", content)
                exits[slot] = (below & TAG_MASK, top & TAG_MASK) if self._layout.version >= (3, 14) else (0, top)
        return exits

    def _read_entered(
        self, frame: tuple[int, int], slot: int, words: tuple[int, int], generator: str | None, nested: int
    ) -> Walk[list[_Block]]:
        """Return the block whose exit is on the stack, after those in the generator behind it."""
        found: list[_Block] = []
        bound_exit, manager = yield from self._read_manager(words)
        type_name = yield from self._locks.read_type_of(manager)
        inner = yield from self._find_generator(manager, type_name)
        if inner is not None and nested < MAX_NESTED:
            code = yield from self._blocks.read_code(inner.code)
            inner_blocks = yield from self._blocks.read_blocks(inner)
            for inner_slot, inner_words in (yield from self._read_exits(inner_blocks)).items():
                found += yield from self._read_entered(frame, inner_slot, inner_words, code.name, nested + 1)
        lock = yield from self._read_manager_lock(manager, type_name)
        found.append(_Block(_Entered(frame, slot, bound_exit, manager, generator), type_name.name, lock))
        return found

    def _read_manager(self, words: tuple[int, int]) -> Walk[tuple[int, int]]:
        """Return what would be called for ``__exit__``, and the object it belongs to: itself if it is no method."""
        function, last = words
        if function and last:
            return function, last
        bound_exit = function or last  # 3.14 on: LOAD_SPECIAL pushes NULL as self where the class has no plain method
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
        fields = self._layout.gen_object
        if fields.gi_iframe is not None:
            return (yield from self._read_raw_frame(generator + fields.gi_iframe))
        assert fields.gi_frame is not None
        address = yield from self._objects.read_pointer(generator + fields.gi_frame)
        return (yield from self._read_raw_frame(address)) if address else None

    def _read_raw_frame(self, address: int) -> Walk[RawFrame]:
        old, new = self._layout.frame_object, self._layout.interpreter_frame
        if old is not None:
            content = yield (address, old.f_lasti + 4)
            return RawFrame(address, _pointer(content, old.f_code)[0], _signed32(content, old.f_lasti)[0])
        assert new is not None
        content = yield (address, new.localsplus)
        code = _pointer(content, new.executable)[0] & TAG_MASK
        return RawFrame(address, code, _pointer(content, new.instr_ptr)[0])

    def _read_manager_lock(self, manager: int, type_name: TypeName) -> Walk[_Lock | None]:
        if type_name.is_lock:
            state = yield from self._locks.read_lock(manager, type_name)
            return _Lock(manager, type_name.name, state, WITH_BLOCK)
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
        return _Lock(attributes["_lock"], type_name.name, state, WITH_BLOCK)

    def _read_locals(self, blocks: FrameBlocks) -> Walk[list[int]]:
        count = min(blocks.locals_count, MAX_LOCALS)
        if not count:
            return []
        content = yield (blocks.locals_address, count * POINTER)
        return [word & TAG_MASK for word in struct.unpack(f"<{count}Q", content)]

    def _read_attributes(self, address: int) -> Walk[list[int]]:
        """Return the instance attributes of an object, which may be a method's ``self``, or anything."""
        try:
            attributes = yield from self._objects.list_attributes(address)
        except BadAddress:
            return []
        return attributes if len(attributes) <= MAX_ATTRIBUTES else []

    def _read_rlocks(self, addresses: Iterable[int], found_in: str) -> Walk[list[_Lock]]:
        """Return those of the objects that are an RLock."""
        candidates = [address for address in dict.fromkeys(addresses) if address]
        types = yield [(address + self._layout.pyobject.ob_type, POINTER) for address in candidates]
        found = []
        for address, content in zip(candidates, types, strict=True):
            if content is None:
                continue
            try:
                type_name = yield from self._locks.read_type(_pointer(content)[0])
                state = (yield from self._locks.read_lock(address, type_name)) if type_name.find(RLOCK) else None
            except BadAddress:  # a local variable that is not set has left anything there
                continue
            if state is not None:
                found.append(_Lock(address, type_name.name, state, found_in))
        return found
