"""Which lock a thread waits for, told by the futex it sleeps on, and which object's method leads there.

Up to early 3.13 a lock is a semaphore in memory of its own, and the thread sleeps on its first word. Later a lock is one byte
(PyMutex), and the thread sleeps on a semaphore on its own stack, part of a ``struct wait_entry`` that says which byte it is
about (Python/parking_lot.c, 3.13 to 3.15).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from threadsurgeon.cpython.blocks import BlockReader
from threadsurgeon.cpython.frames import TAG_MASK, RawFrame
from threadsurgeon.cpython.lock_objects import LockReader, LockState, TypeName
from threadsurgeon.cpython.objects import POINTER, ObjectReader
from threadsurgeon.cpython.reading import Walk
from threadsurgeon.cpython.runtime import Runtime
from threadsurgeon.linux.memory import BadAddress
from threadsurgeon.model.threads import Frame

SIMPLE_QUEUE = "_queue.SimpleQueue"
MODULE_LOCK = "_frozen_importlib._ModuleLock"
CELL = "cell"
# Types whose methods end in waiting for a lock, and the files of those methods.
WAITABLE = (
    "threading.Condition",
    "threading.Semaphore",
    "threading.Event",
    "threading.Barrier",
    "threading.Thread",
    "queue.Queue",
    "concurrent.futures._base.Future",
    MODULE_LOCK,
)
WAITING_FILES = ("/threading.py", "/queue.py", "/concurrent/futures/_base.py", "<frozen importlib._bootstrap>")
MAX_FRAMES = 2  # the innermost calls the lock's method; C code in between may leave it to the next
MAX_ATTRIBUTES = 1000
HAS_PARKED = 2  # of a PyMutex: somebody sleeps

_pointer = struct.Struct("<Q").unpack_from


class Method(NamedTuple):
    """A running method of one of the WAITABLE types."""

    function: str
    type_name: str
    address: int


class LockWait(NamedTuple):
    """What a thread waits for.

    ``native``: what is the lock to the C code: the address of its semaphore, or of its byte.
    ``address``: of the object, 0 where the thread's frames do not lead to it; ``type_name`` is then empty.
    ``methods``: of the objects made of locks that the thread is in, innermost first.
    """

    native: int
    address: int
    type_name: str
    state: LockState | None
    methods: tuple[Method, ...]


class LockWaitReader:
    """Reads what threads of one target wait for, during one look."""

    def __init__(self, runtime: Runtime) -> None:
        self.objects = ObjectReader(runtime.layout)
        self.locks = LockReader(self.objects)
        self._layout = runtime.layout
        self._blocks = BlockReader(self.objects, runtime.symbol("PyCode_Type"))
        self._found: dict[int, tuple[int, int, str, LockState | None]] = {}

    def read_wait(self, futex: int, raw: Sequence[RawFrame], frames: Sequence[Frame]) -> Walk[LockWait]:
        """Return what a thread with these frames waits for, that sleeps on this futex."""
        methods = yield from self._read_methods(raw, frames)
        found = self._found.get(futex)
        if found is None:
            found = yield from self._find_lock(futex, raw)
            if found[0] == futex and found[1]:  # a semaphore that many may wait for
                self._found[futex] = found
        native, address, type_name, state = found
        return LockWait(native, address, type_name, state, methods)

    def _read_methods(self, raw: Sequence[RawFrame], frames: Sequence[Frame]) -> Walk[tuple[Method, ...]]:
        methods = []
        for place, frame in zip(raw, frames, strict=False):
            if not frame.file.endswith(WAITING_FILES):
                break
            try:
                itself, type_name = yield from self._read_self(place)
            except BadAddress:
                break
            name = next((name for name in WAITABLE if type_name.find(name) is not None), None)
            if name is None:
                break
            methods.append(Method(frame.function.rpartition(".")[2], name, itself))
        return tuple(methods)

    def _read_self(self, frame: RawFrame) -> Walk[tuple[int, TypeName]]:
        """Return a method's first argument, and its type.

        If a function within the method uses it, too, as in ``Barrier._wait``, it is in a cell: since 3.11 in its own place,
        before behind the variables, of which the first is empty then.
        """
        (itself,) = yield from self._read_words(frame.address + self._locals_offset, 1)
        candidates = [itself]
        if not itself:
            blocks = yield from self._blocks.read_blocks(frame)
            candidates = yield from self._read_words(blocks.locals_address, blocks.locals_count)
        for address in filter(None, candidates):
            type_name = yield from self.locks.read_type_of(address)
            if type_name.name == CELL:
                content = yield from self.objects.read_pointer(address + self._layout.pyobject.size)
                return content, (yield from self.locks.read_type_of(content))
            if itself:
                return itself, type_name
        raise BadAddress(frame.address, POINTER)

    def _find_lock(self, futex: int, raw: Sequence[RawFrame]) -> Walk[tuple[int, int, str, LockState | None]]:
        """Return (native, address, type name, state) of the lock."""
        native = futex
        if self._layout.version >= (3, 13):
            parked = yield from self._read_parked(futex)
            if parked:
                native = parked
                found = yield from self._read_lock(parked - self._layout.pyobject.size)
                if found is not None:
                    return (native, *found)
        if native == futex:
            for frame in raw[:MAX_FRAMES]:
                found = yield from self._find_by_semaphore(frame, futex)
                if found is not None:
                    return (native, *found)
        return native, 0, "", None

    def _read_parked(self, futex: int) -> Walk[int]:
        """Return what the ``wait_entry`` around the semaphore is about, 0 if it is none."""
        try:
            address = yield from self.objects.read_pointer(futex - POINTER)
            if 0 < address < 1 << 47:
                yield (address, 1)
                return int(address)
        except BadAddress:
            pass
        return 0

    def _find_by_semaphore(self, frame: RawFrame, semaphore: int) -> Walk[tuple[int, str, LockState | None] | None]:
        """Return the lock with this semaphore among what the frame refers to: its variables, its stack, self's attributes."""
        try:
            blocks = yield from self._blocks.read_blocks(frame)
            code = yield from self._blocks.read_code(frame.code)
            words = yield from self._read_words(blocks.locals_address, blocks.locals_count + code.stack_size)
        except BadAddress:
            return None
        found = yield from self._find_among(words, semaphore)
        if found is None and blocks.locals_count and words[0]:
            try:
                attributes = yield from self.objects.list_attributes(words[0])
            except BadAddress:
                return None
            found = yield from self._find_among(attributes[:MAX_ATTRIBUTES], semaphore)
        return found

    def _find_among(self, words: Sequence[int], semaphore: int) -> Walk[tuple[int, str, LockState | None] | None]:
        """Return the lock among the objects, or among those to which the objects are bound: ``with`` keeps a method."""
        header, field = self._layout.pyobject.size, self._layout.cfunction_object.m_self
        looked_at: set[int] = set()
        for _ in range(2):
            candidates = [word for word in dict.fromkeys(words) if word and word % POINTER == 0 and word not in looked_at]
            contents = yield [(word, field + POINTER) for word in candidates]
            looked_at.update(candidates)
            words = []
            for word, content in zip(candidates, contents, strict=True):
                if content is None:
                    continue
                if _pointer(content, header)[0] == semaphore:
                    found = yield from self._read_lock(word)
                    if found is not None:
                        return found
                words.append(_pointer(content, field)[0])
        return None

    def _read_lock(self, address: int) -> Walk[tuple[int, str, LockState | None] | None]:
        """Return (address, type name, state) of the lock or queue at the address, None if it is neither."""
        try:
            type_name = yield from self.locks.read_type_of(address)
            if type_name.find(SIMPLE_QUEUE) is not None:
                return address, SIMPLE_QUEUE, None
            if not type_name.is_lock:
                return None
            state = yield from self.locks.read_lock(address, type_name)
        except BadAddress:
            return None
        return address, type_name.name, state

    @property
    def _locals_offset(self) -> int:
        frame = self._layout.frame_object
        if frame is not None:
            return frame.f_localsplus
        assert self._layout.interpreter_frame is not None
        return self._layout.interpreter_frame.localsplus

    def _read_words(self, address: int, count: int) -> Walk[list[int]]:
        if count <= 0:
            return []
        content = yield (address, count * POINTER)
        return [word & TAG_MASK for word in struct.unpack(f"<{count}Q", content)]
