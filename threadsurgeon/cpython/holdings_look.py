"""One look at what a thread holds: its frames, the ``with`` blocks they have entered, and what those belong to.

The thread runs meanwhile: what a single look says may be torn.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from threadsurgeon.cpython.blocks import BlockReader, FrameBlocks
from threadsurgeon.cpython.frames import TAG_MASK, FrameReader, RawFrame
from threadsurgeon.cpython.lock_objects import RLOCK, LockReader, LockState, TypeName
from threadsurgeon.cpython.objects import POINTER, ObjectReader
from threadsurgeon.cpython.reading import Walk, walk_alone, walk_together
from threadsurgeon.cpython.runtime import Runtime
from threadsurgeon.cpython.threads import ThreadState, read_thread_state
from threadsurgeon.linux.memory import BadAddress, Memory

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


class SeenLock(NamedTuple):
    """A lock, as it was in one look."""

    address: int
    type_name: str
    state: LockState | None
    found_in: str


class Entered(NamedTuple):
    """What makes a block the same one in two looks."""

    frame: tuple[int, int]
    slot: int
    bound_exit: int
    manager: int
    generator: str | None


class SeenBlock(NamedTuple):
    """An entered block, as it was in one look."""

    entered: Entered
    type_name: str
    lock: SeenLock | None


class EnteredBlocks(NamedTuple):
    """The ``with`` blocks that a frame has entered, innermost first; the rest as in FrameSight."""

    blocks: FrameBlocks
    entered: list[SeenBlock]
    waits_for: int
    torn: bool


class FrameSight(NamedTuple):
    """What was seen of one frame. ``waits_for``: the lock of the Condition whose ``wait`` it runs, or 0."""

    blocks: list[SeenBlock]
    rlocks: list[SeenLock]
    waits_for: int
    handling: bool
    torn: bool


class Look(NamedTuple):
    """All that was seen in one look."""

    frames: list[RawFrame]
    sights: list[FrameSight | None]
    handles_exception: bool

    def find_blocks(self) -> dict[Entered, SeenBlock]:
        """Return the entered blocks."""
        return {block.entered: block for sight in self.sights if sight for block in sight.blocks}

    def find_rlocks(self) -> dict[tuple[tuple[int, int], int], SeenLock]:
        """Return the RLocks by the frame that leads to them."""
        return {
            ((frame.address, frame.code), lock.address): lock
            for frame, sight in zip(self.frames, self.sights, strict=True)
            if sight
            for lock in sight.rlocks
        }

    def find_handling(self) -> set[tuple[int, int]]:
        """Return the frames that are handling an exception."""
        pairs = zip(self.frames, self.sights, strict=True)
        return {(frame.address, frame.code) for frame, sight in pairs if sight and sight.handling}


class HoldingReader:
    """One look: what is read once during it (types, code) may be something else in the next."""

    def __init__(self, memory: Memory, runtime: Runtime) -> None:
        self._memory = memory
        self._runtime = runtime
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

    def look(self, state: ThreadState) -> Look | None:
        """Return what is seen of one thread, None if it is gone or moves too fast."""
        for _ in range(TRIES):
            try:
                fresh = read_thread_state(self._memory, self._runtime, state.interpreter, state.address)
                if fresh is None or fresh.ident != state.ident:
                    return None
                frames = walk_alone(self._memory, self._frames.walk_frames(fresh.content))
                handles = walk_alone(self._memory, self._read_handles_exception(fresh.content))
            except BadAddress:
                continue
            return Look(frames, walk_together(self._memory, map(self._read_frame, frames)), handles)
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

    def find_codes(self, frames: Iterable[RawFrame]) -> set[int]:
        """Return the code objects in which a frame can have entered a ``with`` block, or wait on a Condition."""
        addresses = list({frame.code for frame in frames})
        codes = walk_together(self._memory, map(self._blocks.read_code, addresses))
        exit_opcode = self._layout.opcodes.with_except_start
        return {
            address
            for address, code in zip(addresses, codes, strict=True)
            if code is None or code.name == "wait" or code.has_handler(exit_opcode)
        }

    def find_uses(self, frames: Iterable[RawFrame], name: str) -> set[int]:
        """Return the code objects of the frames that refer to an attribute or a global of that name, or cannot be read."""
        addresses = list({frame.code for frame in frames})
        uses = walk_together(self._memory, (self._blocks.read_uses(address, name) for address in addresses))
        return {address for address, used in zip(addresses, uses, strict=True) if used is not False}

    def read_references(self, frame: RawFrame) -> Walk[list[int]]:
        """Return the objects in a frame's variables, and in the attributes of the first one, which may be ``self``."""
        values = yield from self._read_locals((yield from self._blocks.read_blocks(frame)))
        if values and values[0]:
            values += yield from self._read_attributes(values[0])
        return values

    def read_entered(self, frame: RawFrame) -> Walk[EnteredBlocks]:
        """Return the ``with`` blocks that a frame has entered, and only those."""
        blocks = yield from self._blocks.read_blocks(frame)
        waits_for = yield from self._read_waits_for(frame, blocks)
        entered: list[SeenBlock] = []
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
        return EnteredBlocks(blocks, entered, waits_for, torn)

    def _read_waits_for(self, frame: RawFrame, blocks: FrameBlocks) -> Walk[int]:
        code = yield from self._blocks.read_code(frame.code)
        if code.name != "wait" or not blocks.locals_count:
            return 0
        (itself,) = yield from self._read_locals(blocks._replace(locals_count=1))
        if not itself:
            return 0
        type_name = yield from self._locks.read_type_of(itself)
        lock = (yield from self._read_condition_lock(itself)) if type_name.find(CONDITION) is not None else None
        return lock.address if lock is not None else 0

    def _read_frame(self, frame: RawFrame) -> Walk[FrameSight]:
        blocks, entered, waits_for, torn = yield from self.read_entered(frame)
        values = yield from self._read_locals(blocks)
        rlocks = yield from self._read_rlocks(values, LOCAL_VARIABLE)
        if values and values[0]:
            rlocks += yield from self._read_rlocks((yield from self._read_attributes(values[0])), ATTRIBUTE)
        return FrameSight(entered, rlocks, waits_for, blocks.handling, torn)

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
    ) -> Walk[list[SeenBlock]]:
        """Return the block whose exit is on the stack, after those in the generator behind it."""
        found: list[SeenBlock] = []
        bound_exit, manager = yield from self._read_manager(words)
        type_name = yield from self._locks.read_type_of(manager)
        inner = yield from self._find_generator(manager, type_name)
        if inner is not None and nested < MAX_NESTED:
            code = yield from self._blocks.read_code(inner.code)
            inner_blocks = yield from self._blocks.read_blocks(inner)
            for inner_slot, inner_words in (yield from self._read_exits(inner_blocks)).items():
                found += yield from self._read_entered(frame, inner_slot, inner_words, code.name, nested + 1)
        lock = yield from self._read_manager_lock(manager, type_name)
        found.append(SeenBlock(Entered(frame, slot, bound_exit, manager, generator), type_name.name, lock))
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

    def _read_manager_lock(self, manager: int, type_name: TypeName) -> Walk[SeenLock | None]:
        if type_name.is_lock:
            state = yield from self._locks.read_lock(manager, type_name)
            return SeenLock(manager, type_name.name, state, WITH_BLOCK)
        if type_name.find(CONDITION) is not None:
            return (yield from self._read_condition_lock(manager))
        return None

    def _read_condition_lock(self, condition: int) -> Walk[SeenLock | None]:
        attributes = yield from self._objects.read_attributes(condition, "_lock")
        if "_lock" not in attributes:
            return None
        type_name = yield from self._locks.read_type_of(attributes["_lock"])
        if not type_name.is_lock:
            return None
        state = yield from self._locks.read_lock(attributes["_lock"], type_name)
        return SeenLock(attributes["_lock"], type_name.name, state, WITH_BLOCK)

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

    def _read_rlocks(self, addresses: Iterable[int], found_in: str) -> Walk[list[SeenLock]]:
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
                found.append(SeenLock(address, type_name.name, state, found_in))
        return found
